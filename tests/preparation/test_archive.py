"""Archives are unpacked inside the working folder, or refused with a reason."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stacked_ram.preparation import archive
from stacked_ram.preparation.archive import open_source, unpack
from stacked_ram.runtime.errors import UserError

EVIL = [
    "../out.txt",
    "a/../../out.txt",
    "/tmp/out.txt",
    "C:/out.txt",
    "a\\..\\..\\out.txt",
    "//x/y",
]


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    mode = {".tar": "w", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w:gz")
    with tarfile.open(path, mode) as opened:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    return path


MAKERS = {"x.zip": make_zip, "x.tar": make_tar, "x.tar.gz": make_tar, "x.tgz": make_tar}


@pytest.mark.parametrize("name", MAKERS)
def test_plain_archives_are_unpacked(tmp_path: Path, name: str) -> None:
    files = {"a/one.txt": b"1", "a/b c/zwei ü.txt": b"22", "./three": b""}
    packed = MAKERS[name](tmp_path / name, files)
    folder = open_source(packed, tmp_path / "working")
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert found == {"a/one.txt": b"1", "a/b c/zwei ü.txt": b"22", "three": b""}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("evil", EVIL)
def test_entries_outside_the_folder_are_refused(tmp_path: Path, name: str, evil: str) -> None:
    box = tmp_path / "box"
    box.mkdir()
    packed = MAKERS[name](tmp_path / name, {"good.txt": b"", evil: b"evil"})
    with pytest.raises(UserError, match="would leave"):
        unpack(packed, box)
    assert {p.name for p in tmp_path.iterdir()} == {"box", name}
    assert not Path("/tmp/out.txt").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as opened:
        entry = tarfile.TarInfo("innocent.jpg")
        entry.type, entry.linkname = kind, "/etc/passwd"
        opened.addfile(entry)
    (tmp_path / "box").mkdir()
    with pytest.raises(UserError, match=r"innocent\.jpg.*link or a device"):
        unpack(tmp_path / "x.tar", tmp_path / "box")
    assert not [*(tmp_path / "box").iterdir()]


def test_link_in_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        entry = zipfile.ZipInfo("innocent.jpg")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        unpack(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
def test_bombs_are_stopped(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SMALL_BYTES", 100_000)
    packed = MAKERS[name](tmp_path / name, {"zeros.jpg": bytes(30_000_000)})
    box = tmp_path / "box"
    box.mkdir()
    with pytest.raises(UserError, match="100 times its size"):
        unpack(packed, box)
    assert sum(p.stat().st_size for p in box.rglob("*")) <= 100 * packed.stat().st_size


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 5)
    packed = make_tar(tmp_path / "x.tar", {f"{n}.jpg": b"" for n in range(6)})
    with pytest.raises(UserError, match="more than 5 entries"):
        unpack(packed, tmp_path / "box")


@pytest.mark.parametrize("name", MAKERS)
def test_broken_archives(tmp_path: Path, name: str) -> None:
    packed = MAKERS[name](tmp_path / name, {f"{n}.bin": bytes(range(256)) * 40 for n in range(9)})
    content = packed.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no archive at all" * 99):
        packed.write_bytes(broken)
        with pytest.raises(UserError, match="broken archive"):
            unpack(packed, tmp_path / "box")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.bz2", "x.tar.xz", "x.zip"])
def test_any_flipped_bit_of_the_contents_is_found(tmp_path: Path, name: str) -> None:
    """Also where the damage changes only pixels: the checksum is behind the last entry."""
    rng = random.Random(1)
    maker = MAKERS.get(name, make_tar)
    files = {f"{n}.jpg": rng.randbytes(3000) for n in range(9)}
    packed = maker(tmp_path / name, files)
    content = packed.read_bytes()
    for _ in range(40):
        place = rng.randrange(100, len(content) * 9 // 10)
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        packed.write_bytes(damaged)
        try:
            unpack(packed, tmp_path / "box")
        except UserError as error:
            assert "broken archive" in str(error)
        else:  # in the time of an entry, such as zip has in two places
            found = {path.name: path.read_bytes() for path in (tmp_path / "box").iterdir()}
            assert found == files


def test_a_damaged_header_does_not_hide_the_entries_behind_it(tmp_path: Path) -> None:
    packed = make_tar(tmp_path / "x.tar", {f"{n}.jpg": bytes(3000) for n in range(9)})
    content = bytearray(packed.read_bytes())
    content[4 * 3584 + 20] ^= 1  # in the name of the fifth entry
    packed.write_bytes(content)
    with pytest.raises(UserError, match="broken archive"):
        unpack(packed, tmp_path / "box")
    packed.write_bytes(packed.read_bytes()[: 4 * 3584])  # cut between two entries
    with pytest.raises(UserError, match="broken archive"):
        unpack(packed, tmp_path / "box")


def test_what_follows_the_last_entry_is_limited_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(archive, "SMALL_BYTES", 100_000)
    packed = make_tar(tmp_path / "x.tar", {"a.jpg": b"1"})
    with gzip.open(tmp_path / "x.tgz", "wb") as file:
        file.write(packed.read_bytes() + bytes(30_000_000))
    with pytest.raises(UserError, match="100 times its size"):
        unpack(tmp_path / "x.tgz", tmp_path / "box")


def test_damage_inside_xz_is_reported_too(tmp_path: Path) -> None:
    packed = make_tar(tmp_path / "x.tar.xz", {"a.jpg": random.Random(0).randbytes(100_000)})
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 255
    packed.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.tar\.xz: broken archive"):
        unpack(packed, tmp_path / "box")


def test_entries_with_conflicting_names_are_refused(tmp_path: Path) -> None:
    packed = make_tar(tmp_path / "x.tar", {"a": b"file", "a/b": b"below the file"})
    with pytest.raises(UserError, match="conflicting names"):
        unpack(packed, tmp_path / "box")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "a", "b.jpg", "", "\\", "C:", "~", "c d"]),
        min_size=1,
        max_size=6,
    )
)
def test_no_name_escapes_the_folder(tmp_path_factory, parts: list[str]) -> None:
    place = tmp_path_factory.mktemp("zip")
    box = place / "in" / "box"
    box.mkdir(parents=True)
    with contextlib.suppress(UserError):
        unpack(make_tar(place / "x.tar", {"/".join(parts): b"x"}), box)
    outside = [p for p in place.rglob("*") if p.is_file() and box not in p.parents]
    assert outside == [place / "x.tar"]


def test_unpacked_files_are_used_again(tmp_path: Path) -> None:
    packed = make_zip(tmp_path / "x.zip", {"a/1.jpg": b"1"})
    folder = open_source(packed, tmp_path / "w")
    (folder / "a/mark").write_text("mine")
    assert (open_source(packed, tmp_path / "w") / "a/mark").exists()
    make_zip(packed, {"a/1.jpg": b"other"})
    again = open_source(packed, tmp_path / "w")
    assert not (again / "a/mark").exists()
    assert (again / "a/1.jpg").read_bytes() == b"other"


def test_a_folder_of_archives_and_lists_is_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    make_tar(folder / "17flowers.tgz", {"jpg/image_0001.jpg": b"x"})
    (folder / "datasplits.mat").write_bytes(b"mat")
    root = open_source(folder, tmp_path / "w")
    assert (root / "jpg/image_0001.jpg").exists()
    assert (root / "datasplits.mat").read_bytes() == b"mat"


def test_invalid_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"photo\.jpg: neither a folder"):
        open_source(tmp_path / "photo.jpg", tmp_path / "w")
    with pytest.raises(UserError, match="no such file"):
        open_source(tmp_path / "nothing", tmp_path / "w")
