"""From a source to a data set: what must hold for every data set."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from making import (
    check_sound,
    class_folders,
    encoded_again,
    jpeg,
    picture,
    rows,
    run,
    save,
    summarise,
    tree_digest,
)
from PIL import Image

from stacked_ram.images.formats import pixel_limit
from stacked_ram.preparation.pool import Workers
from stacked_ram.preparation.sources.common import is_litter, split_of
from stacked_ram.runtime.errors import RunFailed, UserError


def with_faulty_files(source: Path) -> dict[str, str]:
    """Add faulty files to the class `a`; return file name -> repair or problem."""
    folder = source / "a"
    exif = Image.Exif()
    exif[274] = 6
    save(picture(900).convert("CMYK"), folder / "cmyk.jpg")
    save(picture(901).convert("L"), folder / "gray.jpg")
    save(picture(902), folder / "turned.jpg", exif=exif)
    save(picture(903).convert("P"), folder / "palette.png")
    save(picture(904, (900, 700)), folder / "large.jpg")
    picture(905).save(folder / "png.jpg", "PNG")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "half.jpg").write_bytes(jpeg(picture(906, (300, 200)))[:3000])
    (folder / "notes.txt").write_text("not a photo")
    save(picture(907, (2, 2)), folder / "dot.png")
    return {
        "cmyk.jpg": "cmyk", "gray.jpg": "grayscale", "turned.jpg": "exif_rotation",
        "palette.png": "palette", "large.jpg": "reduced", "png.jpg": "wrong_suffix",
        "empty.jpg": "empty", "half.jpg": "truncated", "notes.txt": "not_an_image",
        "dot.png": "too_small",
    }  # fmt: skip


def test_faulty_files_are_repaired_or_quarantined_and_counted(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    fates = with_faulty_files(source)
    before = tree_digest(source)
    info = run(source, tmp_path / "out")
    check_sound(tmp_path / "out")
    assert tree_digest(source) == before
    report = {row["source"]: row for row in rows(tmp_path / "out", "report.csv")}
    assert len(report) == 12 + len(fates)
    for name, word in fates.items():
        row = report[f"a/{name}"]
        assert word in (row["problem"] or row["repairs"]).split(), name
        assert (row["fate"] == "stored") == (row["problem"] == "")
        assert bool(row["path"]) == (row["fate"] == "stored")
    assert info["left_out"] == {"empty": 1, "not_an_image": 1, "too_small": 1, "truncated": 1}
    assert info["repaired"]["cmyk"] == 1
    assert (
        info["counts"]["train"]["a"] + info["counts"]["valid"]["a"] + info["counts"]["test"]["a"]
        == 12
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_photos_that_max_megapixels_allows_are_opened_everywhere(
    tmp_path: Path, monkeypatch, workers: int
) -> None:
    """Pillow's own limit, here 500 pixels, must not apply in any process or step."""
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    save(picture(0), source / "b" / "again.jpg", quality=95)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    info = run(source, tmp_path / "out", keep_size=True, workers=workers)
    assert info["left_out"] == {"conflict": 2}
    assert Image.MAX_IMAGE_PIXELS == 500, "unchanged"
    with Workers(workers) as all_of_them, pixel_limit(None):
        limits = all_of_them.in_order(resolve_name, ["PIL.Image:MAX_IMAGE_PIXELS"], name=str)
        assert list(limits) == [None]


def test_strict_makes_faults_an_error(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    save(picture(904, (900, 700)), source / "a/large.jpg")
    run(source, tmp_path / "fine", strict=True)  # reducing is not a fault
    save(picture(901).convert("L"), source / "a/gray.jpg")
    with pytest.raises(RunFailed, match=r"a/gray\.jpg: grayscale"):
        run(source, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 12, "b": 9})
    with_faulty_files(source)
    for place, workers in [("1", 1), ("2", 2)]:
        (tmp_path / place).mkdir()
        run(source, tmp_path / place / "set", workers=workers)
    first, second = (tree_digest(tmp_path / place / "set") for place in "12")
    assert first == second


def test_another_seed_draws_another_split(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 30, "b": 20})
    drawn = []
    for seed in (0, 1):
        info = run(source, tmp_path / f"out{seed}", seed=seed)
        assert info["counts"]["test"] == {"a": 6, "b": 4}
        drawn.append({r["source"] for r in rows(tmp_path / f"out{seed}") if r["split"] == "test"})
    assert drawn[0] != drawn[1]


def test_more_photos_hardly_change_the_split_of_the_others(tmp_path: Path) -> None:
    """A photo's random number depends on it alone, so one more photo must not reshuffle the set."""
    source = class_folders(tmp_path / "in", {"a": 50})
    run(source, tmp_path / "out", classes="a")
    save(picture(999), source / "a/one more.jpg")
    run(source, tmp_path / "more", classes="a")
    before, after = ({r["source"]: r["split"] for r in rows(tmp_path / n)} for n in ("out", "more"))
    assert sum(before[name] != after[name] for name in before) <= 3


def test_a_second_run_changes_nothing_and_other_options_are_refused(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    dest = tmp_path / "out"
    run(source, dest)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in dest.rglob("*")}
    again = summarise(source, dest)
    assert again.unchanged and "already prepared" in str(again)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in dest.rglob("*")} == before
    with pytest.raises(UserError, match=r"other options \(--seed\)"):
        run(source, dest, seed=5)
    (source / "a/photo 000.jpg").write_bytes(jpeg(picture(777)))
    with pytest.raises(UserError, match="before it changed"):
        run(source, dest)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in dest.rglob("*")} == before
    assert run(source, dest, seed=5, overwrite=True)["seed"] == 5
    check_sound(dest)
    lost = rows(dest)[3]["path"]
    (dest / lost).unlink()
    with pytest.raises(UserError, match=f"has lost photos .{lost}"):
        run(source, dest, seed=5)
    run(source, dest, seed=5, overwrite=True)
    check_sound(dest)


def test_a_data_set_made_before_an_option_existed_is_recognised(tmp_path: Path) -> None:
    source, dest = class_folders(tmp_path / "in", {"a": 8, "b": 8}), tmp_path / "out"
    info = run(source, dest)
    del info["options"]["clutter_size"]
    (dest / "dataset.yaml").write_text(yaml.safe_dump(info, sort_keys=False), encoding="utf-8")
    assert summarise(source, dest).unchanged


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folders_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    dest = tmp_path / "thesis"
    save(picture(1), dest / "precious.png")
    with pytest.raises(UserError, match="not a prepared data set"):
        run(source, dest, overwrite=overwrite)
    assert [p.name for p in dest.iterdir()] == ["precious.png"]
    (tmp_path / "empty").mkdir()
    run(source, tmp_path / "empty")
    check_sound(tmp_path / "empty")


def test_source_and_dest_must_not_contain_each_other(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    before = tree_digest(tmp_path)
    for dest in (source, source / "prepared", tmp_path):
        with pytest.raises(UserError, match=r"is inside SOURCE|holds SOURCE"):
            run(source, dest, overwrite=True)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UserError, match="is inside SOURCE"):
        run(source, tmp_path / "link" / "prepared")
    (tmp_path / "link").unlink()
    assert tree_digest(tmp_path) == before


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking a tree takes longer than reading it
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_tree_gives_a_sound_data_set(tmp_path_factory, data: st.DataObject) -> None:
    """With any names, sizes, modes and copies: a sound data set, and no copy across a split."""
    place = tmp_path_factory.mktemp("tree")
    name = st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12
    ).filter(lambda text: not is_litter(text) and split_of(text) is None)
    classes = data.draw(st.lists(name, min_size=2, max_size=3, unique=True))
    seed, made = 0, []
    for class_name in classes:
        for file_name in data.draw(st.lists(name, min_size=6, max_size=10, unique=True)):
            seed += 1
            size = data.draw(st.tuples(st.integers(8, 90), st.integers(8, 90)))
            mode = data.draw(st.sampled_from(["RGB", "L", "P", "CMYK", "RGBA"]))
            kind = "JPEG" if mode == "CMYK" else data.draw(st.sampled_from(["PNG", "TIFF"]))
            path = place / "in" / class_name / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(seed, size).convert(mode).save(path, kind)
            made.append(path)
        source_of_copy = data.draw(
            st.sampled_from([p for p in made if p.parent.name == class_name])
        )
        copy = place / "in" / class_name / "copy of one"
        if not copy.exists():
            copy.write_bytes(source_of_copy.read_bytes())
    dest = place / "out"
    try:
        info = run(place / "in", dest, short_side=32, seed=data.draw(st.integers(0, 9)))
    except UserError as error:
        assert "too few" in str(error) or "can be used" in str(error)
        assert not dest.exists()
        return
    check_sound(dest)
    assert len(rows(dest, "report.csv")) == sum(1 for p in (place / "in").rglob("*") if p.is_file())
    splits_of: dict[bytes, set[str]] = {}
    for row in rows(dest):
        if row["group"]:
            splits_of.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert any(len(info["counts"][split]) for split in info["counts"])


def test_class_with_too_few_photos_is_named(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"plenty": 9, "rare": 2})
    assert run(source, tmp_path / "out", test_ratio=0)["counts"]["test"] == {"plenty": 0, "rare": 0}
    (source / "rare/photo 002.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="class 'rare' has 2 usable photos"):
        run(source, tmp_path / "o2")
    assert not (tmp_path / "o2").exists()
    (source / "rare/photo 000.jpg").write_bytes(b"")
    (source / "rare/photo 001.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"'rare': none of its 3 photos.*1 empty, 2 not_an_image"):
        run(source, tmp_path / "o2")


def test_subset_of_classes_and_photos(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"Rose": 9, "elm": 9, "oak": 9})
    info = run(source, tmp_path / "out", classes="oak, rose", max_per_class=5)
    assert info["classes"] == ["Rose", "oak"]
    assert sum(sum(c.values()) for c in info["counts"].values()) == 10
    with pytest.raises(UserError, match=r"no class 'ash'.*Rose, elm, oak"):
        run(source, tmp_path / "o2", classes="ash")


def test_max_per_class_keeps_the_proportions_of_an_official_split(tmp_path: Path) -> None:
    for first, split, count in [(0, "train", 20), (100, "valid", 10), (200, "test", 10)]:
        class_folders(tmp_path / "in" / split, {"a": count, "b": count}, first)
    info = run(tmp_path / "in", tmp_path / "out", max_per_class=8)
    assert {s: c["a"] for s, c in info["counts"].items()} == {"train": 4, "valid": 2, "test": 2}


def test_folds(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 25, "b": 25})
    info = run(source, tmp_path / "out", folds=5)
    assert "0.2 test;" in info["rule"] and "valid," not in info["rule"], (
        "the folds determine the other splits"
    )
    with pytest.raises(UserError, match=r"too few for 30 folds.*fewer folds"):
        run(source, tmp_path / "more", folds=30)
    folds: dict[str, list[str]] = {}
    for row in rows(tmp_path / "out"):
        assert (row["fold"] == "") == (row["split"] == "test")
        assert (row["fold"] == "0") == (row["split"] == "valid")
        if row["fold"]:
            folds.setdefault(row["fold"], []).append(row["class"])
    assert sorted(folds) == list("01234")
    assert all(sorted(classes) == ["a"] * 4 + ["b"] * 4 for classes in folds.values())


def test_mean_and_std_are_of_the_training_pixels(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    info = run(source, tmp_path / "out")
    train = [tmp_path / "out" / r["path"] for r in rows(tmp_path / "out") if r["split"] == "train"]
    pixels = np.concatenate([np.asarray(Image.open(p)).reshape(-1, 3) for p in train]) / 255
    assert np.allclose(info["mean"], pixels.mean(axis=0), atol=1e-5)
    assert np.allclose(info["std"], pixels.std(axis=0), atol=1e-5)


def test_the_std_of_a_channel_that_does_not_vary_is_1(tmp_path: Path) -> None:
    """Photos whose channel is constant: dividing by its std must not give NaN."""
    for seed in range(10):
        red = picture(seed).getchannel("R")
        green, blue = (Image.new("L", red.size, level) for level in (0, 77))
        photo = Image.merge("RGB", (red, green, blue))
        save(photo, tmp_path / "in" / "ab"[seed % 2] / f"{seed}.png")
    info = run(tmp_path / "in", tmp_path / "out")
    assert 0.1 < info["std"][0] < 0.4 and info["std"][1:] == [1.0, 1.0]
    assert info["mean"][1:] == [0.0, round(77 / 255, 6)]


def test_torchvision_gives_the_classes_the_same_numbers(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    source = class_folders(tmp_path / "in", {"a?": 5, "B": 5, "a": 5, "é": 5})
    info = run(source, tmp_path / "out")
    folder = datasets.ImageFolder(tmp_path / "out" / "train")
    assert folder.classes == info["folders"]
    assert len(folder) == sum(info["counts"]["train"].values())
    by_path = {row["path"]: row["class"] for row in rows(tmp_path / "out")}
    for path, label in folder.samples:
        relative = Path(path).relative_to(tmp_path / "out").as_posix()
        assert info["classes"][label] == by_path[relative]


def test_the_report_is_self_contained_and_has_no_scripts_of_others(tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">'
    source = class_folders(tmp_path / "in", {evil.replace("/", ""): 6, "b": 6})
    (source / "b" / f"{evil}.jpg").write_bytes(jpeg(picture(1, (300, 200)))[:3000])
    encoded_again(source / "b/photo 000.jpg", source / "b/again.jpg")
    run(source, tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert evil not in text and "&lt;img src=x" in text
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, flags=re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [
        ' type="application/json" id="fix-data"', ""
    ]  # fmt: skip
    assert "<" not in scripts[0][1] and "onerror" not in scripts[1][1]
    assert text.count("<script") == 2
    text = text.replace(scripts[0][1], "")
    assert not re.findall(
        r"(?:src|href)=(?!\"data:image/jpeg;base64,)", text.replace("&lt;img src=x", "")
    )
    pictures = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)\"", text)]
    assert len(pictures) >= 2 + 1 + 2  # a sheet per class, the truncated photo, the pair
    for content in pictures:
        Image.open(io.BytesIO(content)).load()
    assert text.count("<svg") == 3
