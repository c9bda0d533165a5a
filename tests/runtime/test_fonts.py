"""Class names in any script for which the machine has a font."""

from __future__ import annotations

import pytest
from matplotlib import font_manager

from stacked_ram.runtime.fonts import families


@pytest.fixture
def machine(monkeypatch):
    """Set the fonts of the machine."""
    families.cache_clear()
    yield lambda *names: monkeypatch.setattr(font_manager, "get_font_names", lambda: list(names))
    families.cache_clear()


def test_missing_characters_are_taken_from_other_installed_fonts(machine):
    machine("DejaVu Sans", "Comic Sans MS", "Malgun Gothic", "Noto Sans CJK JP")
    assert families() == ["DejaVu Sans", "Noto Sans CJK JP", "Malgun Gothic"]


def test_without_other_fonts_only_the_main_font_is_used(machine):
    machine("DejaVu Sans")
    assert families() == ["DejaVu Sans"]
