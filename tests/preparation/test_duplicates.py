"""Duplicates stay in the same split; copies with two labels are all left out."""

from __future__ import annotations

from pathlib import Path

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

from stacked_ram.preparation.duplicates import Duplicates, leave_out_conflicts


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
    ("exact", "near", "left_out"),
    [
        ([(1, 2), (1, 3)], [], {1, 2, 3}),
        ([], [(1, 2, 0), (1, 3, 0)], {1, 2, 3}),  # hashes 5, 5, 5
        ([], [(1, 2, 1), (1, 3, 1), (2, 3, 2)], {1, 2, 3}),  # hashes 5, 7, 13
        ([(1, 2)], [(1, 3, 0)], {1, 2, 3}),
        ([(1, 2), (3, 4)], [(1, 3, 4)], {1, 2, 3, 4}),
        ([], [(1, 2, 1), (1, 3, 1)], {1, 3}),  # photo 2 looks like two photos with different labels
        ([(1, 2)], [], set()),
    ],
)
def test_copies_are_left_out_together(exact, near, left_out) -> None:
    classes = {1: "cat", 2: "cat", 3: "dog", 4: "dog"}
    pairs = exact + [(a, b) for a, b, _ in near]
    catalogue = FakeCatalogue(classes)
    found = Duplicates(exact, near, conflicts(classes, pairs))
    assert leave_out_conflicts(catalogue, found) == len(left_out)
    assert catalogue.out.keys() == left_out
    for number, detail in catalogue.out.items():
        other = "dog" if classes[number] == "cat" else "cat"
        assert detail.startswith(f"also under {other!r}: {other}/")


def test_many_photos_with_equal_hashes_need_few_steps() -> None:
    classes = {number: ("cat", "dog", "emu")[number % 3] for number in range(3000)}
    pairs = [(0, other) for other in range(1, 3000)]
    catalogue = FakeCatalogue(classes)
    found = Duplicates([], [(a, b, 0) for a, b in pairs], conflicts(classes, pairs))
    assert leave_out_conflicts(catalogue, found) == 3000
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
    first, second = source / "a/photo 000.jpg", source / "a/photo 001.jpg"
    (source / "b/same.jpg").write_bytes(first.read_bytes())
    (source / "a/again.jpg").write_bytes(first.read_bytes())
    encoded_again(second, source / "b/alike.jpg")
    run(source, tmp_path / "out")
    assert problems(tmp_path / "out") == dict.fromkeys(
        ["photo 000.jpg", "same.jpg", "again.jpg", "photo 001.jpg", "alike.jpg"], "conflict"
    )
    details = {row["source"]: row["detail"] for row in rows(tmp_path / "out", "report.csv")}
    assert details["b/same.jpg"] == "also under 'a': a/again.jpg"
    info = run(source, tmp_path / "kept", keep_conflicts=True)
    assert info["left_out"] == {}
    splits = {r["source"]: r["split"] for r in rows(tmp_path / "kept")}
    assert splits["b/same.jpg"] == splits["a/photo 000.jpg"] == splits["a/again.jpg"]


def test_a_conflict_leaves_out_all_that_look_alike(tmp_path: Path) -> None:
    """Three files with equal pixels and hashes but different bytes; one has another label."""
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    for level, name in [(1, "a/one.png"), (6, "a/two.png"), (9, "b/three.png")]:
        save(picture(500), source / name, compress_level=level)
    run(source, tmp_path / "out")
    names = ["one.png", "two.png", "three.png"]
    assert problems(tmp_path / "out") == dict.fromkeys(names, "conflict")
    details = {row["source"]: row["detail"] for row in rows(tmp_path / "out", "report.csv")}
    assert details["a/two.png"] == "also under 'b': b/three.png"
    assert details["b/three.png"] == "also under 'a': a/one.png"


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
