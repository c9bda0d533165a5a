"""Photos with several labels: sources, iterative stratification, the files of the data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from making import by_source, dataset_info, picture, rows, run, save, summarise
from scipy.sparse import csr_matrix

from stacked_ram.config.data import DataConfig
from stacked_ram.data.dataset import open_dataset
from stacked_ram.preparation.iterative_stratification import assign_iteratively
from stacked_ram.runtime.errors import UserError

LABELS = [["cat"], ["dog"], ["cat", "dog"], ["bird", "dog"], [], ["bird"]]


def photos(root: Path, count: int = 30) -> list[tuple[str, list[str]]]:
    """Make photos; return (file, labels)."""
    listed = []
    for number in range(count):
        save(picture(number), root / f"{number:02d}.jpg", quality=95)
        listed.append((f"{number:02d}.jpg", LABELS[number % len(LABELS)]))
    return listed


def separated(root: Path) -> dict:
    lines = [f"{name},{';'.join(labels)}\n" for name, labels in photos(root)]
    (root / "labels.csv").write_text("file,tags\n" + "".join(lines))
    return {"label_separator": ";"}


def one_hot(root: Path) -> dict:
    names = ("bird", "cat", "dog")
    lines = [
        f"{file},{','.join(str(int(name in labels)) for name in names)}\n"
        for file, labels in photos(root)
    ]
    (root / "train.csv").write_text(f"id,{','.join(names)}\n" + "".join(lines))
    return {}


def row_for_each_label(root: Path) -> dict:
    lines = [f"{file},{label}\n" for file, labels in photos(root) for label in labels or [""]]
    (root / "labels.csv").write_text("file,label\n" + "".join(lines))
    return {}


def json_lines(root: Path) -> dict:
    lines = [json.dumps({"file_name": file, "label": labels}) for file, labels in photos(root)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return {}


def coco(root: Path) -> dict:
    names = ["bird", "cat", "dog"]
    annotations, images = [], []
    for number, (file, labels) in enumerate(photos(root)):
        images.append({"id": number, "file_name": file, "width": 48, "height": 36})
        for place, label in enumerate(labels):
            entry = {"image_id": number, "category_id": names.index(label)}
            annotations.append(entry | ({"bbox": [place, 2, 10, 8]} if place == 0 else {}))
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    (root / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return {}


@pytest.mark.parametrize("make", [separated, one_hot, row_for_each_label, json_lines, coco])
def test_sources_of_several_labels(tmp_path: Path, make) -> None:
    source, dest = tmp_path / "in", tmp_path / "out"
    options = make(source)
    info = run(source, dest, multi_label=True, **options)
    assert info["labels"] == "several"
    assert info["classes"] == ["bird", "cat", "dog"]
    assert info["folders"] == ["photos"]
    assert sum(info["photos"].values()) == 30
    totals = {
        name: sum(info["counts"][split][name] for split in info["counts"])
        for name in info["classes"]
    }
    assert totals == {"bird": 10, "cat": 10, "dog": 15}
    for file, row in by_source(dest).items():
        assert row["labels"].split("|") == (LABELS[int(file[:2]) % 6] or [""])
        assert "class" not in row
        assert (dest / row["path"]).is_file()
        assert row["path"].startswith(f"{row['split']}/photos/")
    assert "5 photos have no label" in info["notes"]
    for split, fraction in [("train", 0.6), ("valid", 0.2), ("test", 0.2)]:
        assert abs(info["photos"][split] - 30 * fraction) <= 1
        for name, total in totals.items():
            assert abs(info["counts"][split][name] - total * fraction) <= 1
    again = summarise(source, dest, multi_label=True, **options)
    assert again.unchanged
    assert again.photos == info["photos"]


def test_the_report_shows_a_photo_under_each_of_its_labels(tmp_path: Path) -> None:
    one_hot(tmp_path / "in")
    summary = summarise(tmp_path / "in", tmp_path / "out", multi_label=True)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count('class="sheet"') == 3
    assert "3 classes" in str(summary)
    assert f"{summary.photos['train']} train, {summary.photos['valid']} valid" in page


def test_such_a_data_set_is_opened_with_all_labels(tmp_path: Path) -> None:
    one_hot(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", multi_label=True)
    dataset = open_dataset(DataConfig(dataset=str(tmp_path / "out")), "train")
    assert dataset.multi_label and dataset.targets([0]).dtype == np.float32
    assert dataset.class_counts() == [
        dataset_info(tmp_path / "out")["counts"]["train"][name] for name in dataset.classes
    ]
    listed = {row["path"]: row["labels"] for row in rows(tmp_path / "out")}
    for name, has_C in zip(dataset.names, dataset.labels, strict=True):
        named = [name for name, has in zip(dataset.classes, has_C, strict=True) if has]
        assert "|".join(named) == listed[name]


def test_without_the_option_several_labels_are_refused(tmp_path: Path) -> None:
    json_lines(tmp_path / "in")
    with pytest.raises(UserError, match=r"line 1: a list of labels: give --multi-label"):
        run(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"label_separator": ";"}, "give --multi-label too"),
        ({"multi_label": True, "label_separator": ""}, "--label-separator is empty"),
        ({"multi_label": True, "max_per_class": 3}, "does not go with --max-per-class"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict, match: str) -> None:
    one_hot(tmp_path / "in")
    with pytest.raises(UserError, match=match):
        run(tmp_path / "in", tmp_path / "out", **options)


def test_class_folders_have_one_label(tmp_path: Path) -> None:
    photos(tmp_path / "in/a")
    with pytest.raises(UserError, match="--multi-label needs a CSV"):
        run(tmp_path / "in", tmp_path / "out", multi_label=True)


def test_chosen_and_joined_labels(tmp_path: Path) -> None:
    listed = photos(tmp_path / "in")
    lines = [f"{file},{'|'.join(labels)}\n" for file, labels in listed]
    lines[2] = "02.jpg,Cat|dog\n"
    (tmp_path / "in/labels.csv").write_text("file,label\n" + "".join(lines))
    info = run(
        tmp_path / "in", tmp_path / "out", multi_label=True, join_classes=True, classes="cat,bird"
    )
    assert info["classes"] == ["bird", "cat"]
    found = by_source(tmp_path / "out")
    assert len(found) == 20
    assert found["02.jpg"]["labels"] == "cat"
    assert found["03.jpg"]["labels"] == "bird"


def test_groups_folds_and_copies_stay_together(tmp_path: Path) -> None:
    source = tmp_path / "in"
    listed = photos(source)
    save(picture(3), source / "copy.jpg", quality=95)  # of 03.jpg
    listed.append(("copy.jpg", LABELS[3]))
    lines = [
        f"{file},{'|'.join(labels)},{'g' if number < 6 else ''}\n"
        for number, (file, labels) in enumerate(listed)
    ]
    (source / "labels.csv").write_text("file,label,group\n" + "".join(lines))
    run(source, tmp_path / "out", multi_label=True, folds=3)
    found = by_source(tmp_path / "out")
    together = [found[f"{number:02d}.jpg"] for number in range(6)] + [found["copy.jpg"]]
    assert len({(row["split"], row["fold"]) for row in together}) == 1
    assert {row["fold"] for row in rows(tmp_path / "out")} == {"", "0", "1", "2"}


def test_the_same_photo_with_other_labels_is_a_conflict(tmp_path: Path) -> None:
    source = tmp_path / "in"
    listed = photos(source)
    save(picture(0), source / "copy.jpg", quality=95)
    lines = [f"{file},{'|'.join(labels)}\n" for file, labels in [*listed, ("copy.jpg", ["dog"])]]
    (source / "labels.csv").write_text("file,label\n" + "".join(lines))
    run(source, tmp_path / "out", multi_label=True)
    assert dataset_info(tmp_path / "out")["left_out"] == {"conflict": 2}


def test_stratification_keeps_the_fractions_of_common_and_rare_labels() -> None:
    rng = np.random.default_rng(0)
    chances = np.geomspace(0.4, 0.01, 12)
    labels = csr_matrix((rng.random((2000, 12)) < chances).astype(np.int64))
    lots = rng.permutation(2000)
    parts = assign_iteratively(labels, np.arange(2000), lots, [0.6, 0.2, 0.2])
    totals = np.asarray(labels.sum(axis=0)).ravel()
    for part, fraction in enumerate([0.6, 0.2, 0.2]):
        inside = np.asarray(labels[parts == part].sum(axis=0)).ravel()
        assert np.abs(inside - fraction * totals).max() <= 2
        assert abs(np.count_nonzero(parts == part) - 2000 * fraction) <= 10
    again = assign_iteratively(labels, np.arange(2000), lots, [0.6, 0.2, 0.2])
    assert (parts == again).all()


def test_stratification_keeps_units_whole_and_what_is_decided() -> None:
    rng = np.random.default_rng(1)
    labels = csr_matrix((rng.random((300, 4)) < 0.3).astype(np.int64))
    units = np.arange(300) // 3
    fixed = np.where(units < 5, 2, -1)
    parts = assign_iteratively(labels, units, rng.permutation(300), [0.5, 0.0, 0.5], fixed)
    assert all(len(np.unique(parts[units == unit])) == 1 for unit in range(100))
    assert (parts[:15] == 2).all()
    assert set(parts) == {0, 2}
    for label in range(4):
        inside = np.bincount(parts[labels[:, [label]].nonzero()[0]], minlength=3)
        assert abs(inside[0] - inside[2]) <= 4
