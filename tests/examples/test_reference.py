"""The reference pages made from the sources, and the pages of the site (.ci/run builds it)."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml

from stacked_ram.config.yaml import SECTIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


def test_every_field_of_the_configuration_has_its_row(reference):
    page = reference.configuration()
    for section, kind in SECTIONS.items():
        part = page.split(f"## {section}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", part, re.M)
        assert [name for name, *_ in rows] == [field.name for field in dataclasses.fields(kind)]
    assert "| `std` | number, above 0 | `0.15` | Standard deviation of the Gaussian" in page
    assert "| `schedule` | `cosine`, `step`, `plateau`, `constant` | `cosine` |" in page
    assert "| `num_patches` | whole number, at least 1 and at most 100 | `1` |" in page


def test_every_option_of_every_command_has_its_row(reference):
    page = reference.commands()
    for option in ("--dry-run", "--exit-glimpses", "--one-per-class", "--trials", "--size"):
        assert f"| `{option}` |" in page
    assert "| `RUN` |" in page and "--run" not in page  # what has no flag is not shown as one


def test_a_field_without_a_text_stops_the_site(reference, tmp_path):
    (tmp_path / "a.py").write_text(
        'class A:\n    """Summary."""\n\n    known: int = 1\n    """Text."""\n    new: int = 2\n'
    )
    with pytest.raises(ValueError, match=r"a\.py: A\.new has no text"):
        reference.read_class(str(tmp_path / "a.py"), "A")


def test_every_page_is_in_the_navigation():
    """mkdocs would only warn."""
    text = (ROOT / "mkdocs.yml").read_text()
    nav = set(re.findall(r": (\S+\.md)$", text, re.M))
    assert yaml.safe_load(text)["hooks"] == ["docs/hooks.py"]
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= nav
    assert all((ROOT / page).is_file() for page in nav)


def test_pictures_of_the_pages_are_small_and_used():
    pictures = sorted((ROOT / "docs/pictures").glob("*"))
    assert pictures
    pages = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for picture in pictures:
        assert picture.stat().st_size < 150_000 and f"pictures/{picture.name})" in pages
