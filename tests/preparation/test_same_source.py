"""The same command twice changes nothing; another source is never taken for the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from making import class_folders, dataset_info, picture, rows, run, save, summarise, tree_digest
from PIL import Image

from stacked_ram.preparation import download as downloading
from stacked_ram.preparation.download import RemoteFile
from stacked_ram.runtime.errors import RunFailed, UserError


def bitmaps(root: Path, first: int = 0) -> Path:
    """Make two classes of photos whose files all have the same size and time."""
    for number in range(12):
        path = save(picture(first + number), root / "ab"[number % 2] / f"{number}.bmp")
        os.utime(path, ns=(10**18, 10**18))
    return root


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*")}


def zipped(source: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(source.rglob("*.*")):
            opened.write(path, path.relative_to(source))
    return archive


def test_equal_names_sizes_and_times_do_not_make_the_same_source(tmp_path: Path) -> None:
    run(bitmaps(tmp_path / "in"), tmp_path / "out")
    assert summarise(tmp_path / "in", tmp_path / "out").unchanged
    bitmaps(tmp_path / "other", first=100)
    with pytest.raises(UserError, match=r"another source, .*\(then .*/in\)"):
        run(tmp_path / "other", tmp_path / "out")
    bitmaps(tmp_path / "in", first=100)  # the same place, other photos
    with pytest.raises(UserError, match="before it changed"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_stopped_run_is_not_continued_with_the_photos_of_another_source(tmp_path: Path) -> None:
    for source, first in (("in", 0), ("other", 100)):
        bitmaps(tmp_path / source, first)
        save(Image.new("L", (48, 36)), tmp_path / source / "b" / "gray.bmp")
    for changed in ("other", "in"):
        with pytest.raises(RunFailed, match="strict"):
            run(tmp_path / "in", tmp_path / f"out {changed}", strict=True)
        if changed == "in":
            bitmaps(tmp_path / "in", first=100)
        info = run(tmp_path / changed, tmp_path / f"out {changed}")
        run(tmp_path / "other", tmp_path / "fresh", overwrite=True)
        assert info["left_out"] == {}
        found, fresh = (
            {row["source"]: row["sha256"] for row in rows(tmp_path / name)}
            for name in (f"out {changed}", "fresh")
        )
        assert found == fresh


def test_an_archive_prepared_twice_is_unchanged(tmp_path: Path) -> None:
    source = zipped(class_folders(tmp_path / "in", {"a": 6, "b": 6}), tmp_path / "in.zip")
    dest = tmp_path / "place" / "out"
    run(source, dest)
    before = state(tmp_path / "place")
    for _ in range(2):
        assert summarise(source, dest).unchanged
        assert summarise(source, dest, dry_run=True).unchanged
        assert state(tmp_path / "place") == before
    zipped(class_folders(tmp_path / "in", {"a": 6, "b": 6}, first=50), source)
    with pytest.raises(UserError, match="before it changed"):
        run(source, dest)
    assert state(tmp_path / "place") == before, "no unpacked copy is left"
    assert summarise(source, dest, overwrite=True).unchanged is False


def test_a_csv_beside_an_archive_belongs_to_the_source(tmp_path: Path) -> None:
    source = zipped(class_folders(tmp_path / "in", {"a": 6, "b": 6}), tmp_path / "in.zip")
    labels = tmp_path / "labels.csv"
    lines = [f"{c}/photo {n:03d}.jpg,{'xy'[n % 2]}" for n in range(6) for c in "ab"]
    labels.write_text("\n".join(["file,label", *lines]))
    run(source, tmp_path / "out", labels=labels)
    assert summarise(source, tmp_path / "out", labels=labels).unchanged
    labels.write_text("\n".join(["file,label", *lines[:-1], lines[-1].replace("y", "x")]))
    with pytest.raises(UserError, match="before it changed"):
        run(source, tmp_path / "out", labels=labels)


def test_a_download_prepared_twice_is_unchanged_and_its_hash_is_recorded(
    tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "downloads" / "bach"
    folder.mkdir(parents=True)
    classes = dict.fromkeys(("Benign", "InSitu", "Invasive", "Normal"), 5)
    archive = zipped(class_folders(tmp_path / "raw", classes), folder / "set.zip")
    monkeypatch.setitem(downloading.OFFICIAL, "bach", (RemoteFile("http://x.test/set.zip"),))
    dest = tmp_path / "out"
    summarise(None, dest, download="bach")
    content = archive.read_bytes()
    assert dataset_info(dest)["downloads"] == [
        {
            "url": "http://x.test/set.zip",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    before = state(tmp_path)
    assert summarise(None, dest, download="bach").unchanged
    assert state(tmp_path) == before
    (tmp_path / "elsewhere").mkdir()
    for name in ("downloads", "out"):  # moved together, or fetched again
        shutil.copytree(tmp_path / name, tmp_path / "elsewhere" / name)
    os.utime(tmp_path / "elsewhere/downloads/bach/set.zip")
    assert summarise(None, tmp_path / "elsewhere/out", download="bach").unchanged


def test_a_known_size_or_sha256_is_checked(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "downloads" / "bach"
    folder.mkdir(parents=True)
    (folder / "set.zip").write_bytes(b"12345")
    for known, message in (({"size": 6}, "5 bytes are not the known 6"), ({"sha256": "0"}, "SHA")):
        monkeypatch.setitem(
            downloading.OFFICIAL, "bach", (RemoteFile("http://x.test/set.zip", **known),)
        )
        with pytest.raises(UserError, match=message):
            downloading.download("bach", tmp_path / "out")


def test_digits_of_the_same_size_are_not_the_same_digits(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    labels = (np.arange(200) % 10).astype(np.uint8)
    images = np.random.default_rng(0).integers(0, 255, (200, 12, 12), dtype=np.uint8)
    for part in ("train", "t10k"):
        head = bytes([0, 0, 8, 3, 0, 0, 0, 200, 0, 0, 0, 12, 0, 0, 0, 12])
        (source / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = bytes([0, 0, 8, 1, 0, 0, 0, 200])
        (source / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    run(source, tmp_path / "out")
    assert summarise(source, tmp_path / "out").unchanged
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as opened:
        for path in sorted(source.iterdir()):
            opened.write(path, path.name)
    run(tmp_path / "in.zip", tmp_path / "zipped")
    assert summarise(tmp_path / "in.zip", tmp_path / "zipped").unchanged
    (source / "train-images-idx3-ubyte").write_bytes(
        (source / "t10k-images-idx3-ubyte").read_bytes()[:16] + (255 - images).tobytes()
    )
    with pytest.raises(UserError, match="before it changed"):
        run(source, tmp_path / "out")


def test_data_sets_of_earlier_releases_are_still_recognised(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    run(source, tmp_path / "out")
    older = hashlib.sha256()
    for path in sorted(source.rglob("*.jpg")):
        status = path.stat()
        name = os.fsencode(path.relative_to(source))
        row = (name, status.st_size, status.st_mtime_ns, path.parent.name, None, "")
        older.update(repr(row).encode())
    info = dataset_info(tmp_path / "out")
    info["source_fingerprint"] = older.hexdigest()
    del info["options"]["near_duplicates"]  # an option that was added later
    (tmp_path / "out" / "dataset.yaml").write_text(yaml.safe_dump(info))
    assert summarise(source, tmp_path / "out").unchanged


def test_a_dest_that_is_a_link_is_followed(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", {"a": 6, "b": 6})
    (tmp_path / "large disk").mkdir()
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "large disk" / "set")
    run(source, link)
    assert link.is_symlink() and (tmp_path / "large disk" / "set" / "manifest.csv").exists()
    before = tree_digest(tmp_path / "large disk")
    assert summarise(source, link).unchanged
    run(source, link, overwrite=True)
    assert link.is_symlink() and tree_digest(tmp_path / "large disk") == before
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(UserError, match="leads to itself"):
        run(source, link)
    link.unlink()
    link.symlink_to(source)
    with pytest.raises(UserError, match="SOURCE"):
        run(source, link)
