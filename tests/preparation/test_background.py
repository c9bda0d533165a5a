"""Scenes and their background folder: changes are noticed, and records are streamed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from making import (
    check_sound,
    class_folders,
    dataset_info,
    picture,
    run,
    save,
    summarise,
    tree_digest,
)

from stacked_ram.preparation.options import PrepareOptions
from stacked_ram.preparation.records import CheckedRecord
from stacked_ram.preparation.scenes import prepare_scenes
from stacked_ram.runtime.errors import UserError


@pytest.fixture
def background(tmp_path: Path) -> Path:
    for number in range(12):
        save(picture(500 + number), tmp_path / "behind" / f"{number}.jpg")
    return tmp_path / "behind"


@pytest.mark.parametrize("change", ["other", "more", "less", "renamed"])
def test_a_changed_background_folder_is_refused_or_made_again(
    tmp_path: Path, background: Path, change: str
) -> None:
    source = class_folders(tmp_path / "in", {"a": 4, "b": 4})
    how = {"scene": "64x48", "background": background, "clutter": 1}
    run(source, tmp_path / "out", **how)
    before = tree_digest(tmp_path / "out")
    assert "already prepared" in str(summarise(source, tmp_path / "out", **how))

    if change == "other":
        save(picture(900, (50, 40)), background / "3.jpg")
    elif change == "more":
        save(picture(900), background / "deeper" / "13.jpg")
    elif change == "less":
        (background / "3.jpg").unlink()
    else:
        (background / "3.jpg").rename(background / "three.jpg")
    with pytest.raises(UserError, match="made from another source, or from this one before"):
        run(source, tmp_path / "out", **how)
    assert tree_digest(tmp_path / "out") == before
    run(source, tmp_path / "out", overwrite=True, **how)
    used = dataset_info(tmp_path / "out")["background_photos"]
    assert sum(used.values()) == {"more": 13, "less": 11}.get(change, 12)


def test_a_missing_background_folder_is_reported_before_any_photo_is_checked(
    tmp_path: Path,
) -> None:
    source = class_folders(tmp_path / "in", {"a": 4, "b": 4})
    with pytest.raises(UserError, match=r"--background .*: no such folder"):
        run(source, tmp_path / "out", scene="64x48", background=tmp_path / "nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_scenes_of_the_same_photo_store_it_once(tmp_path: Path, background: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 4, "b": 4})
    run(
        source, tmp_path / "out", scene="64x48", background=background, clutter=1,
        scenes_per_photo=3,
    )  # fmt: skip
    out = tmp_path / "out"
    with open(out / "pieces" / "photos.csv", encoding="utf-8", newline="") as file:
        pieces = [row["piece"] for row in csv.DictReader(file)]
    assert len(pieces) == 3 * len(set(pieces)) == sum(dataset_info(out)["counts"]["train"].values())
    assert {path.relative_to(out).as_posix() for path in (out / "pieces" / "photos").iterdir()} == {
        *pieces
    }
    check_sound(out)


def test_records_are_streamed_and_not_held_in_memory(tmp_path: Path, background: Path) -> None:
    alive: set[int] = set()

    class Record(CheckedRecord):
        def __post_init__(self) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    file = save(picture(1), tmp_path / "checked" / "one.jpg")
    most = 0

    class Records:
        def __iter__(self):
            nonlocal most
            for number in range(60):
                split = ("train", "valid", "test")[number % 3]
                yield Record(f"{number}.jpg", "a", split, "", None, None, file, 48, 36, ())
                most = max(most, len(alive))

    options = PrepareOptions(
        tmp_path / "in", tmp_path / "out", scene="64x48", background=background, clutter=1,
        workers=1,
    )  # fmt: skip
    prepare_scenes(options, Records())
    assert sum(sum(c.values()) for c in dataset_info(tmp_path / "out")["counts"].values()) == 60
    assert most < 10
