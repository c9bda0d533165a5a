"""Names that every file system accepts, and text that is safe in a table."""

from __future__ import annotations

import csv
import io
import os
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from stacked_ram.images.names import folder_names, path_text, printable, safe_name

FORBIDDEN = set('<>:"/\\|?*')


@given(st.text())
def test_safe_names_are_safe(text: str) -> None:
    name = safe_name(text)
    assert name
    assert not FORBIDDEN & set(name)
    assert not any(unicodedata.category(character) == "Cc" for character in name)
    assert name[0] != "." and name[-1] not in ". "
    assert len(name.encode()) <= 151
    assert safe_name(name) == name, "safe names do not change"


def test_ordinary_names_do_not_change() -> None:
    for name in ("lily of the valley", "colt's foot", "Tulpe", "百合", "n02085620-Chihuahua"):
        assert safe_name(name) == name
    assert safe_name("CON") == "_CON" and safe_name("lpt1.jpg") == "_lpt1.jpg"


@given(st.lists(st.text(max_size=8), unique=True, max_size=20))
def test_folders_differ_even_without_case(classes: list[str]) -> None:
    folders = folder_names(classes)
    assert set(folders) == set(classes)
    assert len({folder.casefold() for folder in folders.values()}) == len(classes)
    assert list(folders.values()) == sorted(folders.values())


@given(
    st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name)
)
def test_any_file_name_survives_a_table(name: bytes) -> None:
    text = path_text(os.fsdecode(name))
    text.encode("utf-8")
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerow([text, "next"])
    table.seek(0)
    assert list(csv.reader(table)) == [[text, "next"]]


def test_control_characters_are_escaped() -> None:
    assert printable("a\rb\x1b[31m\x9b") == "a\\x0db\\x1b[31m\\x9b"
