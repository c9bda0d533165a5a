"""Every layout is detected and read correctly: class folders, split folders, CSV files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from making import (
    by_source,
    check_sound,
    class_folders,
    dataset_info,
    picture,
    problems,
    rows,
    run,
    save,
)
from PIL import Image

from stacked_ram.runtime.errors import UserError


def test_class_folders_with_any_name(tmp_path: Path) -> None:
    names = [
        "lily of the valley",
        "Tulpe",
        "tulpe",
        "百合",
        "con",
        "a.b.",
        "x" * 120,
        "-dash",
        "q?*",
    ]
    source = class_folders(tmp_path / "in", dict.fromkeys(names, 5))
    info = run(source, tmp_path / "out")
    assert sorted(info["classes"]) == sorted(names)
    assert info["layout"] == "class_folders"
    check_sound(tmp_path / "out")
    assert len({folder.casefold() for folder in info["folders"]}) == len(names)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "dest"
    class_folders(source, {"cat": 6, "dog": 6})
    (source / "emu").mkdir()
    with pytest.raises(UserError, match="class 'emu' has no photos"):
        run(source, dest)
    assert not dest.exists()
    run(source, dest, classes="cat,dog")
    assert dataset_info(dest)["classes"] == ["cat", "dog"]


def test_a_folder_name_that_is_not_text(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"good": 5})
    bad = os.fsdecode(bytes(source) + b"/caf\xe9")
    class_folders(source, {"later": 5}, first=50)
    os.rename(source / "later", bad)
    os.rename(f"{bad}/photo 000.jpg", os.fsdecode(os.fsencode(bad) + b'/\xff\n,".jpg'))
    info = run(source, tmp_path / "out")
    assert len(info["classes"]) == 2
    check_sound(tmp_path / "out")


def test_class_folders_wrapped_and_nested(tmp_path: Path) -> None:
    class_folders(tmp_path / "wrapped" / "archive-1.0" / "data", {"a": 5, "b": 5})
    assert run(tmp_path / "wrapped", tmp_path / "o1")["classes"] == ["a", "b"]
    info = run(tmp_path / "wrapped", tmp_path / "o2", layout="class_folders")
    assert info["classes"] == ["a", "b"]
    (tmp_path / "wrapped" / "archive-1.0" / "README").write_text("beside what wraps them")
    assert run(tmp_path / "wrapped", tmp_path / "o3")["classes"] == ["a", "b"]
    class_folders(tmp_path / "deep", {"cat": 4, "dog": 5})
    save(picture(77), tmp_path / "deep" / "cat" / "more" / "5.jpg")
    assert split_sizes_total(run(tmp_path / "deep", tmp_path / "o4")) == {"cat": 5, "dog": 5}


def test_folders_inside_class_folders_are_not_classes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    class_folders(source / "cat", {"home": 3, "street": 3})
    class_folders(source / "dog", {"home": 3, "park": 3}, first=50)
    assert split_sizes_total(run(source, tmp_path / "o1")) == {"cat": 6, "dog": 6}
    save(picture(99), source / "cat" / "stray.jpg")
    assert split_sizes_total(run(source, tmp_path / "o2")) == {"cat": 7, "dog": 6}


@pytest.mark.parametrize("wrap", ["", "images"])
def test_all_splits_have_the_same_classes(tmp_path: Path, wrap: str) -> None:
    """The training split determines which folders are classes, also for the other splits."""
    source = tmp_path / "in"
    class_folders(source / "train" / wrap, {"cat": 5, "dog": 5})
    class_folders(source / "test" / wrap / "cat", {"home": 2, "street": 2}, first=50)
    info = run(source, tmp_path / "out")
    assert info["classes"] == ["cat", "dog"]
    assert info["counts"]["test"] == {"cat": 4, "dog": 0}


@pytest.mark.parametrize("wrapped", ["train", "test"])
def test_a_single_split_may_be_wrapped(tmp_path: Path, wrapped: str) -> None:
    source = tmp_path / "in"
    for split in ("train", "test"):
        folder = source / split / ("images" if split == wrapped else "")
        class_folders(folder, {"cat": 5, "dog": 5}, first=50 * (split == "test"))
    info = run(source, tmp_path / "out")
    assert info["classes"] == ["cat", "dog"]
    assert info["counts"]["test"] == {"cat": 5, "dog": 5}


def split_sizes_total(info: dict) -> dict[str, int]:
    return {name: sum(info["counts"][s][name] for s in info["counts"]) for name in info["classes"]}


def test_litter_links_and_loops(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    for litter in (".DS_Store", "Thumbs.db", "a/._photo 000.jpg", "a/desktop.ini"):
        (source / litter).write_bytes(b"litter")
    (source / "a" / "around").symlink_to(source / "a", target_is_directory=True)
    (source / "again").symlink_to(source, target_is_directory=True)
    (source / "up").symlink_to(tmp_path, target_is_directory=True)
    elsewhere = save(picture(99), tmp_path / "elsewhere.jpg")
    (source / "b" / "linked.jpg").symlink_to(elsewhere)
    info = run(source, tmp_path / "out")
    assert split_sizes_total(info) == {"a": 5, "b": 6}
    assert info["left_out"] == {}


@pytest.mark.parametrize("valid", ["valid", "val", "Validation"])
def test_split_folders(tmp_path: Path, valid: str) -> None:
    for first, split, count in [(0, "train", 6), (100, valid, 3), (200, "test", 2)]:
        class_folders(tmp_path / "in" / split, {"a": count, "b": count}, first)
    info = run(tmp_path / "in", tmp_path / "out")
    assert info["layout"] == "split_folders"
    assert {s: sum(c.values()) for s, c in info["counts"].items()} == {
        "train": 12, "valid": 6, "test": 4,
    }  # fmt: skip
    for row in rows(tmp_path / "out"):
        assert {"Validation": "valid", "val": "valid"}.get(
            row["source"].split("/")[0], row["source"].split("/")[0]
        ) == row["split"]


def test_missing_validation_is_drawn_from_train_never_from_test(tmp_path: Path) -> None:
    class_folders(tmp_path / "in" / "train", {"a": 20, "b": 10})
    class_folders(tmp_path / "in" / "test", {"a": 7, "b": 7}, first=100)
    info = run(tmp_path / "in", tmp_path / "out", valid_ratio=0.3)
    assert info["counts"] == {
        "train": {"a": 14, "b": 7}, "valid": {"a": 6, "b": 3}, "test": {"a": 7, "b": 7},
    }  # fmt: skip
    for row in rows(tmp_path / "out"):
        assert (row["source"].startswith("test/")) == (row["split"] == "test")


def test_an_unlabelled_test_folder_is_reported(tmp_path: Path) -> None:
    class_folders(tmp_path / "in" / "train", {"a": 10, "b": 10})
    save(picture(500), tmp_path / "in" / "test" / "1.jpg")
    info = run(tmp_path / "in", tmp_path / "out")
    assert any("test/ has no class folders" in note for note in info["notes"])
    assert info["counts"]["test"] == {"a": 2, "b": 2}


def write_csv(folder: Path, header: str, lines: list[str], name: str = "labels.csv") -> Path:
    (folder / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8-sig")
    return folder / name


def flat(tmp_path: Path, count: int = 12) -> Path:
    for number in range(count):
        save(picture(number), tmp_path / "in" / f"{number} ü.jpg")
    return tmp_path / "in"


def test_labels_csv_with_split_and_group(tmp_path: Path) -> None:
    source = flat(tmp_path)
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 2 + [""]
    lines = [f"{n} ü.jpg;{'ab'[n % 2]};{splits[n]};g{n // 2}" for n in range(12)]
    write_csv(source, "File;Label;Split;Group", lines)
    info = run(source, tmp_path / "out")
    assert info["layout"] == "labels_csv"
    assert {s: sum(c.values()) for s, c in info["counts"].items()} == {
        "train": 6, "valid": 3, "test": 2,
    }  # fmt: skip
    assert problems(tmp_path / "out") == {"11 ü.jpg": "no_split"}
    assert by_source(tmp_path / "out")["3 ü.jpg"]["group"] == "group g1"
    assert any("1 groups are in two splits" in note for note in info["notes"])


def test_labels_csv_groups_stay_together(tmp_path: Path) -> None:
    source = flat(tmp_path, 40)
    lines = [f"{n} ü.jpg,{'ab'[n // 20]},plant {n // 4}" for n in range(40)]
    labels = write_csv(tmp_path, "file,label,group", lines)
    run(source, tmp_path / "out", labels=labels)
    sides: dict[str, set[str]] = {}
    for row in rows(tmp_path / "out"):
        sides.setdefault(row["group"], set()).add(row["split"])
    assert len(sides) == 10
    assert all(len(side) == 1 for side in sides.values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../outside.jpg,a", "is not below"), ("/etc/passwd,a", "is not below"),
        ("0 ü.jpg,", "line 14: label is empty"), (",a", "line 14: file is empty"),
    ],
)  # fmt: skip
def test_labels_csv_mistakes_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    source = flat(tmp_path)
    lines = [f"{n} ü.jpg,{'ab'[n % 2]}" for n in range(12)]
    write_csv(source, "file,label", [*lines, line])
    with pytest.raises(UserError, match=message):
        run(source, tmp_path / "out")
    assert not [*tmp_path.glob("*out*")]


def test_labels_csv_boxes_follow_rotation_and_reduction(tmp_path: Path) -> None:
    source = flat(tmp_path)
    turned = Image.new("RGB", (48, 36))
    turned.getexif()[274] = 6  # to be turned by 90 degrees clockwise
    save(turned, source / "0 ü.jpg", exif=turned.getexif())
    lines = [f"{n} ü.jpg,{'ab'[n % 2]},,,," for n in range(2, 12)]
    lines += ["0 ü.jpg,a,4,6,16,30", "1 ü.jpg,b,4,6,16,30.5"]
    write_csv(source, "file,label,box_left,box_top,box_right,box_bottom", lines)
    run(source, tmp_path / "out", short_side=18)
    found = {
        name: [row[side] for side in ("box_left", "box_top", "box_right", "box_bottom")]
        for name, row in by_source(tmp_path / "out").items()
    }
    assert list(map(float, found["1 ü.jpg"])) == [2, 3, 8, 15.25]
    assert list(map(float, found["0 ü.jpg"])) == [3, 2, 15, 8]  # x = 36 - y, then halved
    assert found["2 ü.jpg"] == [""] * 4


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        ("box_left,box_top,box_right,box_bottom", "1,2,x,4", "line 14: the box 1, 2, x, 4 is not"),
        ("box_left,box_top,box_right,box_bottom", "9,2,3,4", "line 14: the box 9, 2, 3, 4 has no"),
        ("box_left,box_top", "1,2", "a column 'box_left', but not all of"),
    ],
)
def test_labels_csv_boxes_that_are_none(
    tmp_path: Path, header: str, cells: str, message: str
) -> None:
    source = flat(tmp_path)
    lines = [f"{n} ü.jpg,{'ab'[n % 2]}" for n in range(12)]
    write_csv(source, f"file,label,{header}", [*lines, f"0 ü.jpg,a,{cells}"])
    with pytest.raises(UserError, match=message):
        run(source, tmp_path / "out")


def test_labels_csv_missing_photo_is_quarantined(tmp_path: Path) -> None:
    source = flat(tmp_path)
    lines = [f"{n} ü.jpg,{'ab'[n % 2]}" for n in range(12)]
    write_csv(source, "file,label", [*lines, "gone.jpg,a"])
    run(source, tmp_path / "out")
    assert problems(tmp_path / "out") == {"gone.jpg": "unreadable"}


def test_group_pattern(tmp_path: Path) -> None:
    for n in range(40):
        save(picture(n), tmp_path / "in" / "ab"[n % 2] / f"plant{n % 10}_{n}.jpg")
    run(tmp_path / "in", tmp_path / "out", group_pattern=r"(plant\d+)_")
    for plant in range(10):
        splits = {r["split"] for r in rows(tmp_path / "out") if f"plant{plant}_" in r["source"]}
        assert len(splits) == 1


def test_a_requested_layout_that_does_not_fit_says_what_is_missing(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    for layout, missing in [
        ("flowers17", "image_0001"), ("flowers102", "imagelabels"), ("bach", "Benign"),
        ("stanford_dogs", "Images"), ("cub200", r"images\.txt"), ("split_folders", "train/"),
        ("labels_csv", "--labels"), ("mnist", "IDX"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=missing):
            run(source, tmp_path / "out", layout=layout)
    assert run(source, tmp_path / "out", layout="class_folders")["layout"] == "class_folders"
    assert dataset_info(tmp_path / "out")["options"]["layout"] == "class_folders"


def test_a_source_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="no layout fits"):
        run(tmp_path / "in", tmp_path / "out")
    assert not [*tmp_path.glob("*out*")]


def test_a_class_named_train_is_not_mistaken_for_a_split(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"car": 6, "bus": 6})
    class_folders(source / "train", {"steam": 5, "diesel": 5}, first=50)
    with pytest.raises(UserError, match="is train/ the training split, or a class beside bus/"):
        run(source, tmp_path / "out")
    info = run(source, tmp_path / "out", layout="class_folders")
    assert info["classes"] == ["bus", "car", "train"]
    info = run(source, tmp_path / "split", layout="split_folders")
    assert info["classes"] == ["diesel", "steam"]
    assert "not used: bus/, car/" in " ".join(info["notes"])


def test_folders_beside_the_splits_are_reported(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 50), ("train_2", 90)):
        class_folders(tmp_path / "in" / split, {"cat": 5, "dog": 5}, first=first)
    picture(200).save(tmp_path / "in" / "train" / "stray.jpg")
    info = run(tmp_path / "in", tmp_path / "out")
    notes = " ".join(info["notes"])
    assert info["layout"] == "split_folders"
    assert "not used: train_2/" in notes and "stray.jpg" in notes


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"cat": 5, "dog": 5})
    (source / "labels.csv").write_text("file,label,label\ncat/photo 000.jpg,cat,zz\n")
    with pytest.raises(UserError, match="two columns are called `label`"):
        run(source, tmp_path / "out", labels=source / "labels.csv")
