"""Duplicates stay in the same split; copies with two labels are all left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import (
    check_sound,
    class_folders,
    dataset_info,
    encoded_again,
    picture,
    problems,
    rows,
    run,
    save,
    split_sizes,
)
from PIL import Image

from stacked_ram.preparation.duplicates import Duplicates, leave_out_conflicts
from stacked_ram.runtime.errors import UserError


class FakeCatalogue:
    """The part of a catalogue that conflicts need; it counts its calls."""

    def __init__(self, classes: dict[int, str]) -> None:
        self.classes, self.asked = classes, 0
        self.out: dict[int, str] = {}

    def class_of(self, number: int) -> str:
        self.asked += 1
        return self.classes[number]

    def source_of(self, number: int) -> str:
        return f"{self.classes[number]}/{number}"

    def leave_out(self, numbers: list[int], why: str, detail: str) -> None:
        self.out |= dict.fromkeys(numbers, detail)


def conflicts(classes: dict[int, str], pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairs if classes[a] != classes[b]]


@pytest.mark.parametrize(
    ("exact", "near", "left_out", "left_out_by_pixels"),
    [
        ([(1, 2), (1, 3)], [], {1, 2, 3}, {1, 2, 3}),
        ([], [(1, 2, 0), (1, 3, 0)], {1, 2, 3}, set()),  # hashes 5, 5, 5
        ([], [(1, 2, 1), (1, 3, 1), (2, 3, 2)], {1, 2, 3}, set()),  # hashes 5, 7, 13
        ([(1, 2)], [(1, 3, 0)], {1, 2, 3}, set()),
        ([(1, 2), (3, 4)], [(1, 3, 4)], {1, 2, 3, 4}, set()),
        (
            [],
            [(1, 2, 1), (1, 3, 1)],
            {1, 3},
            set(),
        ),  # photo 2 looks like two photos with different labels
        ([(1, 2)], [], set(), set()),
        ([(1, 3)], [(1, 2, 0)], {1, 2, 3}, {1, 3}),
    ],
)
def test_copies_are_left_out_together(exact, near, left_out, left_out_by_pixels) -> None:
    classes = {1: "cat", 2: "cat", 3: "dog", 4: "dog"}
    alike = [(a, b) for a, b, _ in near]
    found = Duplicates(exact, near, conflicts(classes, exact), conflicts(classes, alike))
    catalogue = FakeCatalogue(classes)
    assert leave_out_conflicts(catalogue, found, near=False) == len(left_out_by_pixels)
    assert catalogue.out.keys() == left_out_by_pixels
    catalogue = FakeCatalogue(classes)
    assert leave_out_conflicts(catalogue, found, near=True) == len(left_out)
    assert catalogue.out.keys() == left_out
    for number, detail in catalogue.out.items():
        other = "dog" if classes[number] == "cat" else "cat"
        assert detail.startswith(f"also under {other!r}: {other}/")


def test_many_photos_with_equal_hashes_need_few_steps() -> None:
    classes = {number: ("cat", "dog", "emu")[number % 3] for number in range(3000)}
    pairs = [(0, other) for other in range(1, 3000)]
    catalogue = FakeCatalogue(classes)
    found = Duplicates(pairs, [], conflicts(classes, pairs))
    assert leave_out_conflicts(catalogue, found, near=False) == 3000
    assert catalogue.asked < 5 * 3000


def test_duplicates_stay_in_the_same_split(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 20, "b": 20})
    for number in range(8):
        original = source / "a" / f"photo {number:03d}.jpg"
        (source / "a" / f"copy {number}.jpg").write_bytes(original.read_bytes())
        encoded_again(original, source / "a" / f"small {number}.jpg")
    info = run(source, tmp_path / "out")
    check_sound(tmp_path / "out")
    found = {row["source"]: row for row in rows(tmp_path / "out")}
    for number in range(8):
        three = [
            found[f"a/{name}.jpg"]
            for name in (f"photo {number:03d}", f"copy {number}", f"small {number}")
        ]
        assert len({row["split"] for row in three}) == 1
        assert len({row["group"] for row in three}) == 1
        assert three[0]["group"]
    assert any("8 exact and 8 near" in note for note in info["notes"])
    assert set(split_sizes(tmp_path / "out")["b"].values()) == {12, 4}
    run(source, tmp_path / "exact", near_duplicates=-1)
    assert "8 exact and 0 near" in dataset_info(tmp_path / "exact")["notes"][0]


def test_a_photo_with_two_labels(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    first = source / "a/photo 000.jpg"
    (source / "b/same.jpg").write_bytes(first.read_bytes())
    (source / "a/again.jpg").write_bytes(first.read_bytes())
    run(source, tmp_path / "out")
    assert problems(tmp_path / "out") == dict.fromkeys(
        ["photo 000.jpg", "same.jpg", "again.jpg"], "conflict"
    )
    details = {row["source"]: row["detail"] for row in rows(tmp_path / "out", "report.csv")}
    assert details["b/same.jpg"] == "also under 'a': a/again.jpg"
    info = run(source, tmp_path / "kept", keep_conflicts=True)
    assert info["left_out"] == {}
    splits = {r["source"]: r["split"] for r in rows(tmp_path / "kept")}
    assert splits["b/same.jpg"] == splits["a/photo 000.jpg"] == splits["a/again.jpg"]


def test_near_duplicates_with_two_labels_are_reported_and_kept(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    encoded_again(source / "a/photo 001.jpg", source / "b/alike.jpg")
    info = run(source, tmp_path / "out")
    assert problems(tmp_path / "out") == {}
    assert any(
        "1 pair looks alike, but has two labels" in note and "--drop-near-conflicts" in note
        for note in info["notes"]
    )
    assert "two labels" in (tmp_path / "out/report.html").read_text()
    run(source, tmp_path / "dropped", drop_near_conflicts=True)
    names = ["photo 001.jpg", "alike.jpg"]
    assert problems(tmp_path / "dropped") == dict.fromkeys(names, "conflict")
    with pytest.raises(UserError, match="not both"):
        run(source, tmp_path / "no", drop_near_conflicts=True, keep_conflicts=True)


def test_equal_pixels_are_one_photo_whatever_their_files(tmp_path: Path) -> None:
    """Files of different bytes and formats; flat pictures too, which have no usable hash."""
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    save(picture(500), source / "a/one.png", compress_level=1)
    save(picture(500), source / "a/two.png", compress_level=9)
    save(picture(500), source / "b/three.bmp")
    save(Image.new("RGB", (40, 30), "red"), source / "a/red.png")
    save(Image.new("RGB", (40, 30), "red"), source / "b/also red.webp", lossless=True)
    save(Image.new("RGB", (40, 31), "red"), source / "b/taller.png")
    image = picture(501)
    image.putpixel((20, 20), tuple(255 - value for value in image.getpixel((20, 20))))
    save(picture(501), source / "a/pixel.png")
    save(image, source / "b/other pixel.png")
    run(source, tmp_path / "out")
    names = ["one.png", "two.png", "three.bmp", "red.png", "also red.webp"]
    assert problems(tmp_path / "out") == dict.fromkeys(names, "conflict")
    details = {row["source"]: row["detail"] for row in rows(tmp_path / "out", "report.csv")}
    assert details["a/two.png"] == "also under 'b': b/three.bmp"
    run(source, tmp_path / "exact only", near_duplicates=-1)
    assert problems(tmp_path / "exact only") == dict.fromkeys(names, "conflict")


def test_stored_files_of_equal_bytes_are_one_photo(tmp_path: Path) -> None:
    """A bitmap, and the JPEG that it is stored as."""
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    save(picture(500), source / "a/one.bmp")
    save(picture(500), source / "b/two.jpg", quality=92)
    run(source, tmp_path / "out")
    assert problems(tmp_path / "out") == dict.fromkeys(["one.bmp", "two.jpg"], "conflict")


def windows(root: Path, boards: int, sides: int = 96) -> Path:
    """Make windows of printed circuit boards: their class is a mark of 11 % of the width."""
    for board in range(boards):
        for kind in ("mouse bite", "short", "spur"):
            rng = np.random.default_rng(board)
            traces = rng.integers(0, 2, (8, 8, 1)) * [40, 90, 60] + [20, 60, 30]
            pixels = np.kron(traces, np.ones((sides // 8, sides // 8, 1)))
            left, top = rng.integers(8, sides - 20, 2)
            mark = {"mouse bite": np.eye(10), "short": np.ones((10, 10)), "spur": np.tri(10)}[kind]
            window = pixels[top : top + 10, left : left + 10]
            window[mark > 0] = (190, 160, 80)
            save(Image.fromarray(pixels.astype(np.uint8)), root / kind / f"board {board:02d}.png")
    return root


@pytest.mark.parametrize("distance", [0, 8, 16])
def test_classes_that_differ_in_a_small_detail_keep_all_photos(
    tmp_path: Path, distance: int
) -> None:
    source = windows(tmp_path / "in", 12)
    info = run(source, tmp_path / "out", near_duplicates=distance)
    check_sound(tmp_path / "out")
    assert info["left_out"] == {} and len(rows(tmp_path / "out")) == 36
    note = next(note for note in info["notes"] if "two labels" in note)
    assert int(note.split()[0]) >= (12 if distance else 1) and "kept" in note
    if distance < 8:
        return
    splits: dict[str, set[str]] = {}  # a board that was seen in training would be recognised
    for row in rows(tmp_path / "out"):
        splits.setdefault(row["source"].split("/")[1], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


def test_near_duplicates_that_leave_nothing_to_split_are_named(tmp_path: Path) -> None:
    """All photos look alike: the message says that this is why they cannot be split."""
    source = tmp_path / "in"
    for number in range(12):
        image = picture(7, (96, 72))
        image.paste((number * 20, 0, 0), (40, 30, 46, 36))
        save(image, source / ("a" if number % 2 else "b") / f"{number:02d}.png")
    with pytest.raises(UserError, match=r"6 usable photos in 1 group.*--near-duplicates -1"):
        run(source, tmp_path / "out")
    info = run(source, tmp_path / "apart", near_duplicates=-1)
    assert info["left_out"] == {} and len(rows(tmp_path / "apart")) == 12


def test_leaks_across_an_official_split_are_reported_and_not_moved(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for first, split in [(0, "train"), (100, "valid"), (200, "test")]:
        class_folders(source / split, {"a": 6, "b": 6}, first)
    (source / "test/a/copy.jpg").write_bytes((source / "train/a/photo 000.jpg").read_bytes())
    encoded_again(source / "train/b/photo 001.jpg", source / "valid/b/alike.jpg")
    info = run(source, tmp_path / "out")
    assert any("2 pairs of copies of a photo are in two splits" in note for note in info["notes"])
    for row in rows(tmp_path / "out"):
        assert row["source"].split("/")[0] == row["split"]
    assert "in two splits" in (tmp_path / "out/report.html").read_text()


def test_copies_are_dropped_on_request(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    content = (source / "a/photo 003.jpg").read_bytes()
    for name in ("a/after.jpg", "a/z/last.jpg"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
    encoded_again(source / "a/photo 003.jpg", source / "a/near.jpg")
    info = run(source, tmp_path / "out", drop_duplicates=True)
    check_sound(tmp_path / "out")
    report = {row["source"]: row for row in rows(tmp_path / "out", "report.csv")}
    for name in ("a/photo 003.jpg", "a/z/last.jpg"):
        assert report[name]["problem"] == "duplicate"
        assert report[name]["detail"] == "copy of a/after.jpg"
    assert info["left_out"] == {"duplicate": 2}
    splits = {row["source"]: row["split"] for row in rows(tmp_path / "out")}
    assert splits["a/after.jpg"] == splits["a/near.jpg"]


def test_a_copy_with_another_label_stays_if_conflicts_are_kept(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    content = (source / "a/photo 003.jpg").read_bytes()
    for name in ("a/again.jpg", "b/same.jpg", "b/same too.jpg"):
        (source / name).write_bytes(content)
    run(source, tmp_path / "out", drop_duplicates=True, keep_conflicts=True)
    assert problems(tmp_path / "out") == {
        "photo 003.jpg": "duplicate", "same.jpg": "duplicate"
    }  # fmt: skip
    run(source, tmp_path / "both", drop_duplicates=True)
    assert set(problems(tmp_path / "both").values()) == {"conflict"}


def leaking(source: Path) -> Path:
    """Make an official split: test photo 200 is in train twice, once smaller, and in valid."""
    for first, split in [(0, "train"), (100, "valid"), (200, "test")]:
        class_folders(source / split, {"a": 6, "b": 6}, first)
    content = (source / "test/a/photo 000.jpg").read_bytes()
    (source / "train/a/copy.jpg").write_bytes(content)
    (source / "valid/a/copy.jpg").write_bytes(content)
    encoded_again(source / "test/a/photo 000.jpg", source / "train/a/small.jpg")
    return source


def test_leaks_are_dropped_on_request(tmp_path: Path) -> None:
    source = leaking(tmp_path / "in")
    info = run(source, tmp_path / "out", drop_leaks=True)
    check_sound(tmp_path / "out")
    left_out = {
        row["source"]: (row["problem"], row["detail"])
        for row in rows(tmp_path / "out", "report.csv")
        if row["fate"] != "stored"
    }
    reason = ("leak", "shows what a test photo shows: test/a/photo 000.jpg")
    names = ["train/a/copy.jpg", "train/a/small.jpg", "valid/a/copy.jpg"]
    assert left_out == dict.fromkeys(names, reason)
    assert not any("in two splits" in note for note in info["notes"])
    for row in rows(tmp_path / "out"):
        assert row["source"].split("/")[0] == row["split"]


def test_dropping_copies_across_an_official_split_keeps_that_of_the_test(tmp_path: Path) -> None:
    source = leaking(tmp_path / "in")
    run(source, tmp_path / "out", drop_duplicates=True)
    report = {row["source"]: row["problem"] for row in rows(tmp_path / "out", "report.csv")}
    assert report["train/a/copy.jpg"] == report["valid/a/copy.jpg"] == "duplicate"
    assert report["test/a/photo 000.jpg"] == report["train/a/small.jpg"] == ""


def test_dropping_leaks_must_leave_training_photos(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in/test", {"a": 4, "b": 4}).parent
    class_folders(source / "train", {"a": 4, "b": 4})
    with pytest.raises(UserError, match=r"no training photo of .* is left"):
        run(source, tmp_path / "out", drop_leaks=True)


def test_dropping_leaks_needs_an_official_split(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 4, "b": 4})
    with pytest.raises(UserError, match="--drop-leaks: SOURCE has no official split"):
        run(source, tmp_path / "out", drop_leaks=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
