"""How listed photos come into splits, without decoding any: ratios, official parts, groups, folds,
photos that a person moved, and what the messages say."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stacked_ram.preparation.assign_splits import (
    SplitOutcome,
    SplitPlan,
    assign_splits,
    plan_splits,
)
from stacked_ram.preparation.catalogue import Catalogue
from stacked_ram.preparation.checked import Checked, CheckPlan
from stacked_ram.preparation.damage import NEEDS_HEIF
from stacked_ram.preparation.duplicates import Duplicates
from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import CheckedRecord, Record
from stacked_ram.preparation.sources.common import Source
from stacked_ram.runtime.errors import UserError


@dataclass
class Result:
    plan: SplitPlan
    outcome: SplitOutcome
    photos: dict[int, CheckedRecord] = field(default_factory=dict)  # by number, from 1

    def sizes(self, *names: str) -> list[int]:
        """Photos in train, valid and test; of these classes, or of all."""
        count = Counter(p.split for p in self.photos.values() if not names or p.class_name in names)
        return [count[split] for split in ("train", "valid", "test")]


def listed(count: int, name: str = "a", split: str | None = None, group: str = "") -> list[tuple]:
    return [(name, split, group)] * count


@pytest.fixture
def divide(tmp_path: Path):
    """Give a function that divides photos, each a (class, official split, group), numbered from 1.

    bad: number -> the problem of a photo that cannot be used; moved: number -> split.
    """
    runs = itertools.count()

    def run(
        photos: list[tuple],
        *,
        official: bool = False,
        found: Duplicates | None = None,
        bad: dict[int, str] | None = None,
        moved: dict[int, str] | None = None,
        **fields,
    ) -> Result:
        root = tmp_path / str(next(runs))
        root.mkdir()
        records = []
        for number, (name, split, group) in enumerate(photos, 1):
            file = root / f"{number:03d}.jpg"
            file.touch()
            records.append(Record(file, name, split, group))
        options = PrepareOptions(root, tmp_path / "dest", **fields)
        source = Source("labels_csv", records, "the official split" if official else "")
        catalogue = Catalogue(root / "work", CheckPlan(root, 0, 95, 10**6), keep=False)
        catalogue.multi_label = options.multi_label
        catalogue.list_photos(root, records, options.seed)
        for number, split in (moved or {}).items():
            catalogue.move([number], split)
        plan = plan_splits(catalogue, source, options)
        good = Checked(file="stored.jpg", width=8, height=8)
        problem = bad or {}
        catalogue.take(
            (number, Checked(problem[number]) if number in problem else good)
            for number in range(1, len(photos) + 1)
        )
        outcome = assign_splits(catalogue, source, options, plan, found or Duplicates())
        result = Result(plan, outcome)
        for record in catalogue.records():
            result.photos[int(record.source.removesuffix(".jpg"))] = record
        catalogue.close()
        return result

    return run


def test_ratios_divide_each_class_and_are_said_in_words(divide) -> None:
    result = divide(listed(20) + listed(10, "b"), seed=3)
    assert (result.sizes("a"), result.sizes("b")) == ([12, 4, 4], [6, 2, 2])
    assert result.plan.rule == (
        "drawn by seed 3: 0.6 train, 0.2 valid, 0.2 test; stratified, groups and duplicates kept "
        "together"
    )
    assert not result.plan.official and result.outcome.notes == []
    uneven = divide(listed(20), valid_ratio=0.1, test_ratio=0.3)
    assert uneven.sizes() == [12, 2, 6] and "0.6 train, 0.1 valid, 0.3 test" in uneven.plan.rule
    none = divide(listed(20), valid_ratio=0.0, test_ratio=0.0)
    assert none.sizes() == [20, 0, 0]
    assert {photo.fold for photo in none.photos.values()} == {None}


def test_a_complete_official_split_is_followed(divide) -> None:
    photos = listed(5, split="train") + listed(1, split="valid") + listed(2, split="test")
    result = divide(photos, official=True)
    assert result.sizes() == [5, 1, 2]
    assert result.plan.rule == "the official split" and result.plan.official
    again = divide(photos, official=True, split="ratio", test_ratio=0.5, valid_ratio=0.0)
    assert again.sizes() == [4, 0, 4] and not again.plan.official


def test_missing_official_parts_are_drawn_from_the_training_photos(divide) -> None:
    train, test = listed(20, split="train"), listed(7, split="test")
    result = divide(train + test, official=True, seed=1)
    assert result.sizes() == [16, 4, 7]
    assert result.plan.rule == (
        "the official split; of its training photos 0.2 for valid, drawn by seed 1, stratified"
    )
    valid = listed(3, split="valid")
    assert divide(train + valid, official=True, test_ratio=0.1).sizes() == [18, 3, 2]
    both = divide(train, official=True, valid_ratio=0.1)
    assert both.sizes() == [14, 2, 4]
    assert "0.1 for valid and 0.2 for test" in both.plan.rule
    assert divide(train + test, official=True, valid_ratio=0.0).plan.rule == "the official split"
    with pytest.raises(UserError, match=r"--valid-ratio 0\.1: the official split has its own"):
        divide(train + valid, official=True, valid_ratio=0.1)
    with pytest.raises(UserError, match="--test-ratio 0: the official split has its own test part"):
        divide(train + test, official=True, test_ratio=0.0)
    with pytest.raises(UserError, match=r"has no training photos: give --split ratio"):
        divide(test, official=True)


def test_folds_divide_what_is_outside_the_test_part(divide) -> None:
    result = divide(listed(24) + listed(12, "b"), folds=3, test_ratio=1 / 4)
    assert result.plan.rule.endswith("; 3 folds outside test, fold 0 written as valid")
    assert "0.25 test;" in result.plan.rule and "valid," not in result.plan.rule
    for photo in result.photos.values():
        assert photo.split == {None: "test", 0: "valid", 1: "train", 2: "train"}[photo.fold]
    counts = Counter((photo.class_name, photo.fold) for photo in result.photos.values())
    assert all(counts["a", fold] == 6 and counts["b", fold] == 3 for fold in (None, 0, 1, 2))
    everything = divide(listed(6), folds=3, test_ratio=0.0)
    assert everything.sizes() == [4, 2, 0]


def test_folds_of_an_official_split_draw_train_and_valid_again(divide) -> None:
    photos = listed(8, split="train") + listed(4, split="valid") + listed(5, split="test")
    result = divide(photos, official=True, folds=4)
    assert result.sizes() == [9, 3, 5] and result.plan.fractions == {}
    assert all((result.photos[n].fold is None) == (n > 12) for n in range(1, 18))
    assert "0.2" not in result.plan.rule
    no_test = divide(listed(20, split="train"), official=True, folds=4)
    assert no_test.sizes() == [12, 4, 4]
    with pytest.raises(UserError, match=r"class 'a' has 12 photos in 12 groups, too few for 13 f"):
        divide(photos, official=True, folds=13)
    assert divide(photos, official=True, folds=12).sizes() == [11, 1, 5]


def test_a_class_too_small_is_named_before_any_photo_is_decoded(divide) -> None:
    message = (
        r"^class 'b' has 2 photos in 2 groups, too few for a split into train, valid, test: add "
        r"photos, exclude the class with --classes, or ask for fewer parts \(a ratio of 0\)$"
    )
    with pytest.raises(UserError, match=message):
        divide(listed(9) + listed(2, "b"))
    with pytest.raises(UserError, match=r"'b' has 1 photo in 1 group, .* into train, valid, test"):
        divide(listed(9) + listed(1, "b"))
    with pytest.raises(UserError, match=r"'b' has 4 photos in 2 groups"):
        divide(listed(9) + listed(2, "b", group="x") + listed(2, "b", group="y"))
    assert divide(listed(9) + listed(2, "b"), test_ratio=0.0).sizes("b") == [1, 1, 0]
    assert divide(listed(9) + listed(3, "b")).sizes("b") == [1, 1, 1]
    with pytest.raises(UserError, match=r"'a' has 5 photos in 5 groups, too few for 5 folds: .*ask"
                                        r" for fewer folds"):  # fmt: skip
        divide(listed(5), folds=5)
    assert divide(listed(5), folds=5, test_ratio=0.0).sizes() == [4, 1, 0]
    assert divide(listed(6), folds=5).sizes() == [4, 1, 1]
    few = listed(2, "b", "train") + listed(9, "a", "train")
    with pytest.raises(UserError, match=r"'b' has 2 photos .* into train, valid, test"):
        divide(few + listed(9, "b", None), official=True)
    # classes that only the other parts have need no training photos
    assert divide(few[2:] + listed(1, "c", "test"), official=True).sizes("c") == [0, 0, 1]


def test_groups_and_copies_are_never_divided(divide) -> None:
    photos = listed(12) + listed(3, group="g") + listed(3, "b", group="g") + listed(9, "b")
    found = Duplicates(exact=[(1, 2)], near=[(2, 19, 3)])
    result = divide(photos, found=found)
    assert len({result.photos[number].split for number in range(13, 19)}) == 1
    assert len({result.photos[number].split for number in (1, 2, 19)}) == 1
    groups = {number: photo.group for number, photo in result.photos.items()}
    assert {groups[number] for number in range(13, 19)} == {"group g"}
    assert {groups[number] for number in (1, 2, 19)} == {"same 1"}
    assert groups[3] == groups[27] == ""


def test_a_unit_has_the_name_of_its_first_group(divide) -> None:
    photos = [*listed(12), *listed(1, group="x"), *listed(1, group="y"), *listed(1, group="z")]
    result = divide(photos, found=Duplicates(exact=[(4, 13), (13, 14)]))
    assert {result.photos[number].group for number in (4, 13, 14)} == {"group x"}
    assert result.photos[15].group == "group z"  # of one photo, but the source names it
    assert len({result.photos[number].split for number in (4, 13, 14)}) == 1


def test_photos_that_cannot_be_used_can_make_a_class_too_small(divide) -> None:
    bad = {1: "truncated", 2: "truncated", 3: "empty"}
    assert divide(listed(6), bad=bad).sizes() == [1, 1, 1]
    with pytest.raises(UserError, match=r"^class 'a' has 2 usable photos in 2 groups, too few for"):
        divide(listed(5), bad=bad)
    with pytest.raises(UserError, match=r"'a' has 1 usable photo in 1 group, "):
        divide(listed(4), bad=bad)
    with pytest.raises(UserError, match=r"'b' has 2 usable photos"):
        divide(listed(9) + listed(3, "b"), bad={12: "empty"})
    with pytest.raises(
        UserError, match=r"none of its 3 photos can be used \(1 empty, 2 truncated\): add"
    ):
        divide(listed(3) + listed(3, "b"), bad=bad)
    with pytest.raises(UserError, match=r"heif.*; or add photos"):
        divide(listed(3), bad=dict.fromkeys((1, 2, 3), NEEDS_HEIF))


def test_photos_that_look_alike_are_the_reason_only_where_they_are(divide) -> None:
    alike = Duplicates(near=[(1, 2, 0)])
    with pytest.raises(UserError, match=r"2 groups, .*: photos that look alike stay together; if "
                                        r"they .*--near-duplicates -1; otherwise add"):  # fmt: skip
        divide(listed(3) + listed(3, "b"), found=alike)
    for found in (Duplicates(exact=[(1, 2)]), Duplicates(exact=[(1, 2)], near=[(4, 5, 1)])):
        with pytest.raises(UserError, match=r"'a' has 3 usable photos in 2 groups") as refused:
            divide(listed(3) + listed(5, "b"), found=found)
        assert "look alike" not in str(refused.value)


def test_photos_without_an_official_part_are_left_out(divide) -> None:
    photos = listed(9, split="train") + listed(2) + listed(3, split="test")
    result = divide(photos, official=True, valid_ratio=0.0)
    assert result.sizes() == [9, 0, 3] and not {10, 11} & set(result.photos)
    assert result.outcome.notes[0] == "2 photos are not named by the official split: left out"
    with pytest.raises(UserError, match=r"class 'b': none of its 1 photos can be used \(1 no_spli"):
        divide([*photos, *listed(1, "b")], official=True)


def test_leaks_are_reported_and_not_moved(divide) -> None:
    photos = (
        listed(6, split="train", group="g") + listed(2, split="valid") + listed(4, split="test")
    )
    photos[6] = ("a", "valid", "g")
    found = Duplicates(exact=[(1, 9), (2, 3)], near=[(8, 10, 4), (9, 12, 1)])
    result = divide(photos, official=True, found=found)
    assert result.outcome.leaks == [(1, 9), (8, 10)]
    assert result.outcome.notes == [
        "2 pairs of copies of a photo are in two splits of the source (not moved), such as 001.jpg"
        " and 009.jpg",
        "1 groups are in two splits of the source (not moved)",
    ]
    assert [result.photos[number].split for number in (1, 8, 9)] == ["train", "valid", "test"]
    gone = divide(photos, official=True, found=found, bad={9: "empty"})
    assert gone.outcome.leaks == [(8, 10)]


def test_leaks_are_dropped_on_request(divide) -> None:
    photos = listed(6, split="train") + listed(3, split="valid") + listed(3, split="test")
    found = Duplicates(exact=[(1, 10), (2, 7)], near=[(3, 4, 1)])
    result = divide(photos, official=True, found=found, drop_leaks=True)
    assert set(result.photos) == set(range(3, 13))
    assert result.outcome.notes == ["2 photos with a copy in a later split: left out"]
    folds = divide(photos, official=True, found=found, drop_leaks=True, folds=2)
    assert set(folds.photos) == set(range(2, 13)), "train and valid are one part"
    clean = divide(photos, official=True, drop_leaks=True)
    assert len(clean.photos) == 12
    every = Duplicates(exact=[(number, 10) for number in range(1, 7)])
    with pytest.raises(UserError, match=r"--drop-leaks: no training photo of the official split"):
        divide(photos, official=True, found=every, drop_leaks=True)
    with pytest.raises(UserError, match="SOURCE has no official split"):
        divide(listed(9), drop_leaks=True)


def test_classes_that_a_part_lacks_are_named(divide) -> None:
    photos = listed(4, split="train") + listed(4, split="valid") + listed(4, split="test")
    photos += listed(2, "b", "train") + listed(2, "b", "test") + listed(2, "c", "test")
    result = divide(photos, official=True)
    assert result.outcome.notes == [
        "class 'b' has no photo in valid",
        "class 'c' has no photo in train and valid",
    ]


def test_moved_photos_take_their_units_along(divide) -> None:
    photos = listed(3, group="g") + listed(17)
    result = divide(photos, moved={1: "test", 4: "valid", 5: "train"})
    assert result.sizes() == [12, 4, 4]
    assert [result.photos[number].split for number in range(1, 6)] == [
        "test", "test", "test", "valid", "train"
    ]  # fmt: skip
    agreed = divide(photos, moved={1: "test", 2: "test"})
    assert agreed.photos[3].split == "test"
    with pytest.raises(UserError, match=r"moves 002.jpg to valid and 003.jpg to train, but"):
        divide(photos, moved={2: "valid", 3: "train", 7: "train"})


def test_moves_in_an_official_split_move_the_photo_alone(divide) -> None:
    photos = [
        *listed(9, split="train"),
        *listed(3, split="test"),
        *listed(3, split="valid"),
    ]
    moved = {1: "valid", 10: "train", 11: "test", 13: "test"}
    result = divide(photos, official=True, moved=moved, found=Duplicates(exact=[(1, 2)]))
    assert result.sizes() == [9, 3, 3]
    assert [result.photos[number].split for number in (1, 2, 10, 11, 12, 13)] == [
        "valid", "train", "train", "test", "test", "test"
    ]  # fmt: skip


def test_a_part_that_the_source_lacks_is_drawn_though_a_photo_is_moved_there(divide) -> None:
    photos = listed(10, split="train") + listed(3, split="test")
    result = divide(photos, official=True, moved={1: "valid", 2: "train", 3: "train"})
    assert result.sizes() == [7, 3, 3]
    assert [result.photos[number].split for number in (1, 2, 3)] == ["valid", "train", "train"]
    alone = divide(photos, official=True, valid_ratio=0.0, moved={1: "valid"})
    assert alone.sizes() == [9, 1, 3]


def test_several_labels_are_stratified(divide) -> None:
    photos = listed(20, "x|y") + listed(10, "x") + listed(10, "")
    result = divide(photos, multi_label=True)
    assert "stratified by labels (Sechidis et al., 2011)" in result.plan.rule
    assert result.sizes("x|y") == [12, 4, 4] and result.sizes("x") == [6, 2, 2]
    folds = divide(photos, multi_label=True, folds=4, test_ratio=0.0)
    assert folds.sizes("x|y") == [15, 5, 0]
    rare = divide([*photos, *listed(1, "x|z"), *listed(1, "z")], multi_label=True)
    assert rare.outcome.notes[0].startswith("class 'z' has no photo in ")
    with pytest.raises(UserError, match=r"^2 usable photos: too few for a split into train, valid"):
        divide(listed(2, "x"), multi_label=True)
    with pytest.raises(UserError, match=r"class 'z': none of its 1 photos can be used \(1 empty\)"):
        divide([*photos, *listed(1, "x|z")], multi_label=True, bad={41: "empty"})
