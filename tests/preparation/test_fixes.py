"""A person's fixes: photos are dropped, relabelled and moved to other splits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from making import (
    by_source,
    check_sound,
    class_folders,
    dataset_info,
    encoded_again,
    problems,
    rows,
    run,
    summarise,
    tree_digest,
)

from stacked_ram.cli.prepare import main
from stacked_ram.runtime.errors import UserError


def fixes(path: Path, *lines: str, header: str = "file,action") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_photos_are_dropped_relabelled_and_moved(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "Great b": 8})
    (source / "a/broken.jpg").write_bytes(b"no photo")
    wanted = fixes(
        tmp_path / "fixes.csv",
        "a/broken.jpg,drop", "a/photo 001.jpg,Drop",
        "a/photo 002.jpg,relabel to great b", "a/photo 002.jpg,move to test",
        "a/photo 003.jpg,move to val", "Great b/photo 004.jpg,move to train", "a/photo 005.jpg,",
    )  # fmt: skip
    info = run(source, tmp_path / "out", fixes=wanted, strict=True)
    check_sound(tmp_path / "out")
    found = by_source(tmp_path / "out")
    assert problems(tmp_path / "out") == {"broken.jpg": "dropped", "photo 001.jpg": "dropped"}
    assert info["left_out"] == {"dropped": 2}
    assert found["a/photo 002.jpg"]["class"] == "Great b"
    splits = {name: row["split"] for name, row in found.items()}
    assert splits["a/photo 002.jpg"] == "test" and splits["a/photo 003.jpg"] == "valid"
    assert splits["Great b/photo 004.jpg"] == "train"
    assert "fixes of fixes.csv: 2 photos dropped, 1 relabelled, 3 moved" in info["notes"]
    # the data set keeps them
    assert (tmp_path / "out/fixes.csv").read_bytes() == wanted.read_bytes()


def test_the_same_fixes_change_nothing_and_others_need_overwrite(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    run(source, tmp_path / "out")
    plain = tree_digest(tmp_path / "out")
    wanted = fixes(tmp_path / "fixes.csv", "a/photo 001.jpg,drop")
    with pytest.raises(UserError, match=r"other options.*--fixes"):
        run(source, tmp_path / "out", fixes=wanted)
    assert tree_digest(tmp_path / "out") == plain
    run(source, tmp_path / "out", fixes=wanted, overwrite=True)
    made = tree_digest(tmp_path / "out")
    assert summarise(source, tmp_path / "out", fixes=wanted).unchanged
    # those that the data set keeps are the same fixes
    assert summarise(source, tmp_path / "out", fixes=tmp_path / "out/fixes.csv").unchanged
    assert tree_digest(tmp_path / "out") == made
    with pytest.raises(UserError, match=r"other options.*--fixes"):
        run(source, tmp_path / "out")
    fixes(wanted, "a/photo 002.jpg,drop")
    with pytest.raises(UserError, match=r"other options.*--fixes"):
        run(source, tmp_path / "out", fixes=wanted)


def test_a_moved_photo_takes_its_copies_along(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 9, "b": 9})
    for number in range(4):
        encoded_again(source / f"a/photo {number:03d}.jpg", source / f"b/small {number}.jpg")
    wanted = fixes(
        tmp_path / "fixes.csv", *(f"a/photo {number:03d}.jpg,move to test" for number in range(4))
    )
    run(source, tmp_path / "out", fixes=wanted)
    splits = {name: row["split"] for name, row in by_source(tmp_path / "out").items()}
    for number in range(4):
        assert splits[f"a/photo {number:03d}.jpg"] == splits[f"b/small {number}.jpg"] == "test"
    fixes(wanted, "a/photo 000.jpg,move to test", "b/small 0.jpg,move to train")
    with pytest.raises(UserError, match=r"a/photo 000.jpg to test and b/small 0.jpg to train"):
        run(source, tmp_path / "no", fixes=wanted)


def test_moves_within_an_official_split(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in/train", {"a": 9, "b": 9}).parent
    class_folders(source / "test", {"a": 6, "b": 6}, first=100)
    wanted = fixes(
        tmp_path / "fixes.csv",
        "train/a/photo 000.jpg,move to valid", "test/a/photo 001.jpg,move to train",
        "train/b/photo 002.jpg,move to test",
    )  # fmt: skip
    run(source, tmp_path / "out", fixes=wanted)
    check_sound(tmp_path / "out")
    splits = {name: row["split"] for name, row in by_source(tmp_path / "out").items()}
    assert splits["train/a/photo 000.jpg"] == "valid"
    assert splits["test/a/photo 001.jpg"] == "train"
    assert splits["train/b/photo 002.jpg"] == "test"
    assert splits["test/b/photo 003.jpg"] == "test"


def test_moves_with_folds(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 12, "b": 12})
    names = [f"a/photo {number:03d}.jpg" for number in range(4)]
    wanted = fixes(
        tmp_path / "fixes.csv", *(f"{name},move to train" for name in names[:3]),
        f"{names[3]},move to test",
    )  # fmt: skip
    run(source, tmp_path / "out", fixes=wanted, folds=3)
    found = by_source(tmp_path / "out")
    assert all(found[name]["fold"] for name in names[:3])
    assert found[names[3]]["split"] == "test"
    fixes(wanted, f"{names[0]},move to valid")
    with pytest.raises(UserError, match="fold 0 is valid"):
        run(source, tmp_path / "no", fixes=wanted, folds=3)


def test_unusual_names_and_a_spreadsheets_csv(tmp_path: Path) -> None:
    names = ['a/with, comma "and quotes".jpg', "a/line\nbreak.jpg", "a/größe; ein.jpg"]
    source = class_folders(tmp_path / "in", {"a": 8, "b": 8})
    for number, name in enumerate(names):
        (source / f"a/photo {number:03d}.jpg").rename(source / name)
    latin = os.fsencode(source / "a") + b"/caf\xe9.jpg"
    os.rename(os.fsencode(source / "a/photo 003.jpg"), latin)
    run(source, tmp_path / "out")
    listed = [row["source"] for row in rows(tmp_path / "out", "report.csv")]
    odd = [name for name in listed if "photo" not in name]
    assert len(odd) == 4
    quoted = ['"' + name.replace('"', '""') + '";drop' for name in odd]
    path = fixes(tmp_path / "fixes.csv", *quoted, header="\ufeffFile;Action;remark")
    run(source, tmp_path / "out", fixes=path, overwrite=True)
    assert dataset_info(tmp_path / "out")["left_out"] == {"dropped": 4}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a/photo 000.jpg,delete"], "line 2: unknown action 'delete': use drop, relabel to CLASS"),
        (["a/photo 000.jpg,relabel"], "line 2: unknown action 'relabel'"),
        (["a/photo 000.jpg,move to attic"], "line 2: no split 'attic': use train, valid or test"),
        (["", "a/photo 000.jpg,relabel to c"], "no class 'c'; the classes are: a, b"),
        (["a/photo 100.jpg,drop"], "line 2: no photo 'a/photo 100.jpg' in"),
        ([",drop"], "line 2: names no file"),
        (["a/photo 000.jpg,drop", "a/photo 000.jpg,move to test"],
         "line 3: 'move to test' contradicts 'drop' in line 2"),
        (["a/photo 000.jpg,relabel to a", "a/photo 000.jpg,relabel to b"],
         "line 3: 'relabel to b' contradicts 'relabel to a' in line 2"),
    ],
)  # fmt: skip
def test_mistakes_in_fixes_are_one_line(
    tmp_path: Path, capsys, lines: list[str], message: str, dry_run: bool
) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    path = fixes(tmp_path / "fixes.csv", *lines)
    arguments = [str(source), str(tmp_path / "out"), "--fixes", str(path)]
    assert main([*arguments, "--dry-run"] if dry_run else arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "fixes.csv" in error and error.count("\n") == 0
    assert sorted(os.listdir(tmp_path)) == ["fixes.csv", "in"]


def test_other_files_are_no_fixes(tmp_path: Path, capsys) -> None:
    source = class_folders(tmp_path / "in", {"a": 5, "b": 5})
    arguments = [str(source), str(tmp_path / "out"), "--fixes"]
    assert main([*arguments, str(tmp_path / "none.csv")]) == 2
    assert "none.csv: No such file" in capsys.readouterr().err
    path = fixes(tmp_path / "fixes.csv", "x,y", header="name,label")
    assert main([*arguments, str(path)]) == 2
    assert "needs the columns file and action, and has: name, label" in capsys.readouterr().err
