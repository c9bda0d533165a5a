"""The command: dry runs, early errors, refused options, and imports."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from making import (
    check_sound,
    class_folders,
    dataset_info,
    tree_digest,
)

from stacked_ram.cli.prepare import main
from stacked_ram.preparation import pool

ROOT = Path(__file__).parents[2]


def test_a_dry_run_describes_the_plan_and_writes_nothing(tmp_path: Path, capsys) -> None:
    source = class_folders(tmp_path / "in", {"a": 8, "b": 5})
    before = tree_digest(tmp_path)
    code = main([str(source), str(tmp_path / "new" / "out"), "--dry-run"])
    out = capsys.readouterr().out
    assert code == 0
    for words in (
        "class_folders",
        "13 photos in 2 classes",
        "a: 8",
        "0.6 train",
        "nothing was written",
    ):
        assert words in out
    assert tree_digest(tmp_path) == before
    assert not (tmp_path / "new").exists()
    assert main(["--download", "flowers17", str(tmp_path / "f17"), "--dry-run"]) == 0
    assert "would be fetched" in capsys.readouterr().out
    assert not (tmp_path / "downloads").exists()


def test_a_class_that_is_named_twice_is_kept_once(tmp_path: Path) -> None:
    class_folders(tmp_path / "in", {"cat": 5, "dog": 5, "emu": 5})
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--classes", "cat,dog,Cat,dog"]
    assert main([*arguments, "--workers", "1"]) == 0
    assert dataset_info(tmp_path / "out")["classes"] == ["cat", "dog"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ([], "'rare' has 2 photos in 2 groups, too few for a split into train, valid, test"),
        (["--test-ratio", "0", "--folds", "3"], "'rare' has 2 photos in 2 groups, too few for 3"),
        (["--folds", "2"], "'rare' has 2 photos in 2 groups, too few for 2 folds"),
        (["--group-pattern", "photo .*[0-4].jpg", "--valid-ratio", "0"], ""),
        (["--group-pattern", "common|rare", "--valid-ratio", "0"],
         "'common' has 9 photos in 1 group, too few for a split into train, test"),
    ],
    ids=str,
)  # fmt: skip
def test_too_few_photos_are_reported_before_any_work(
    tmp_path: Path, capsys, monkeypatch, dry_run: bool, how: list[str], message: str
) -> None:
    source = class_folders(tmp_path / "in", {"common": 9, "rare": 2})
    if message:
        monkeypatch.setattr(pool, "check_photo", None)  # no photo is decoded
    arguments = [str(source), str(tmp_path / "out"), "--workers", "1", *how]
    code = main([*arguments, "--dry-run"] if dry_run else arguments)
    printed = capsys.readouterr()
    assert code == (2 if message else 0)
    assert message in printed.err
    assert not dry_run or "rare: 2" in printed.out
    assert os.listdir(tmp_path) == ["in"] or not (message or dry_run)


def test_too_few_photos_of_an_official_split_are_reported_too(tmp_path: Path, capsys) -> None:
    class_folders(tmp_path / "in" / "train", {"a": 5, "b": 1})
    class_folders(tmp_path / "in" / "test", {"a": 5, "b": 5}, first=100)
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]
    for more in (["--dry-run"], []):
        assert main([*arguments, *more]) == 2
        assert "'b' has 1 photo in 1 group, too few for a split into train, valid" in (
            capsys.readouterr().err
        )
    assert main([*arguments, "--valid-ratio", "0"]) == 0


def digits(source: Path) -> Path:
    """Write 80 digits of 8x8 noise, in the format of MNIST."""
    source.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (source / f"{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(head + images.tobytes())
        )
        labels = np.arange(count, dtype=np.uint8) % 10
        head = b"\0\0\x08\x01" + count.to_bytes(4, "big")
        (source / f"{part}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(head + labels.tobytes())
        )
    return source


def test_digits_are_recognised(tmp_path: Path) -> None:
    source = digits(tmp_path / "mnist")
    arguments = [str(source), str(tmp_path / "out"), "--valid-ratio", "0.5"]
    assert main(arguments) == 0
    assert dataset_info(tmp_path / "out")["kind"] == "digits"
    before = tree_digest(tmp_path / "out")
    assert main(arguments) == 0
    assert tree_digest(tmp_path / "out") == before
    assert main([*arguments, "--seed", "3"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "SOURCE nowhere: no such file"), (["only"], "DEST is missing"),
        (["in", "out", "--valid-ratio", "0.7", "--test-ratio", "0.5"], "leave nothing to train on"),
        (["in", "out", "--scene", "big", "--background", "x"], "WIDTHxHEIGHT"),
        (["in", "out", "--folds", "1"], "--folds 1: must be at least 2"),
        (["in", "out", "--group-pattern", "("], "--group-pattern"),
        (["in", "out", "--labels", "no.csv"], "--labels no.csv"),
        (["in", "out", "--quality", "0"], "--quality 0"),
        (["in", "out", "--seed", "-1", "--scene", "96x72", "--background", "in"], "--seed -1"),
        (["in", "out", "--scene", "96x72", "--background", "in", "--folds", "3"],
         "--folds does not work with scenes"),
        (["in", "out", "--object-share", "0.2:0.3"], "--object-share is for scenes: give --scene"),
        (["in", "out", "--clutter-share", "0.2:0.3"], "--clutter-share is for scenes"),
        (["in", "out", "--scenes-per-photo", "5"], "--scenes-per-photo is for scenes"),
        (["in", "out", "--background", "in"], "--background is for scenes"),
        (["in", "out", "--clutter", "0", "--scene", "96x72", "--background", "in",
          "--clutter-share", "0.2:0.3"], "--clutter 0 has none"),
        (["in", "out", "--official-split", "2", "--split", "ratio"], "--split ratio draws another"),
        (["in", "out", "--drop-leaks", "--split", "ratio"], "--split ratio draws another"),
        (["in", "out", "--keep-size", "--short-side", "64"], "--short-side reduces it: not both"),
        (["in", "out", "--labels", "in.csv", "--layout", "bach"], "not --layout bach: not both"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_code_2(
    tmp_path: Path, capsys, monkeypatch, arguments: list[str], message: str
) -> None:
    class_folders(tmp_path / "in", {"a": 1, "b": 1})
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0
    assert sorted(os.listdir(tmp_path)) == ["in"]


PHOTOS_TAKE_NONE = (
    ["--canvas", "60x60"], ["--translate"], ["--clutter", "3"], ["--official-split", "2"]
)  # fmt: skip
DIGITS_TAKE_NONE = (
    ["--labels", "l.csv"], ["--group-pattern", "x"], ["--max-per-class", "3"], ["--folds", "3"],
    ["--split", "ratio"], ["--test-ratio", "0.1"], ["--near-duplicates", "2"],
    ["--keep-conflicts"], ["--drop-near-conflicts"], ["--short-side", "64"], ["--keep-size"],
    ["--drop-duplicates"], ["--drop-leaks"], ["--quality", "80"], ["--max-megapixels", "9"],
    ["--official-split", "2"], ["--fixes", "f.csv"], ["--quarantine", "q"],
)  # fmt: skip


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("what", "ignored"),
    [
        *(("photos", option) for option in PHOTOS_TAKE_NONE),
        ("photos", [word for option in PHOTOS_TAKE_NONE for word in option]),
        ("scenes", ["--clutter", "3", "--clutter-size", "9"]),
        *(("digits", option) for option in DIGITS_TAKE_NONE),
        ("digits", ["--scene", "96x72", "--background", "x", "--scenes-per-photo", "5"]),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(
    tmp_path: Path, capsys, dry_run: bool, what: str, ignored: list[str]
) -> None:
    make = digits if what == "digits" else lambda place: class_folders(place, {"a": 5, "b": 5})
    source = make(tmp_path / "in")
    scene = ["--scene", "96x72", "--background", str(source)] if what == "scenes" else []
    arguments = [str(source), str(tmp_path / "out"), *scene, *ignored]
    assert main([*arguments, "--dry-run"] if dry_run else arguments) == 2
    error = capsys.readouterr().err.strip()
    flags = [word for word in ignored if word.startswith("--")]
    if what == "scenes":
        flags.remove("--clutter")  # scenes have this option
        assert "--clutter (" not in error
    assert f"{source}: {what} do not take" in error and error.count("\n") == 0
    assert all(f"{flag} (for " in error for flag in flags)
    assert os.listdir(tmp_path) == ["in"]


def test_help_answers_at_once_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['prepare_data.py', '--help']\n"
        "from stacked_ram.cli.prepare import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'scipy', 'matplotlib', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--short-side" in done.stdout


def test_preparing_photos_never_loads_torch(tmp_path: Path) -> None:
    class_folders(tmp_path / "in", {"a": 5, "b": 5})
    script = (
        "import sys\nfrom stacked_ram.cli.prepare import main\n"
        f"code = main([{str(tmp_path / 'in')!r}, {str(tmp_path / 'out')!r}, '--workers', '1'])\n"
        "sys.exit(3 if 'torch' in sys.modules else code)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
    check_sound(tmp_path / "out")
