"""Names of classes in any script that the machine has a font for."""

from __future__ import annotations

import pytest
from matplotlib import font_manager

from stacked_ram.runtime.fonts import families


@pytest.fixture
def machine(monkeypatch):
    """Sets which fonts the machine has."""
    families.cache_clear()
    yield lambda *names: monkeypatch.setattr(font_manager, "get_font_names", lambda: list(names))
    families.cache_clear()


def test_what_the_main_font_lacks_is_taken_from_those_that_are_there(machine):
    machine("DejaVu Sans", "Comic Sans MS", "Malgun Gothic", "Noto Sans CJK JP")
    assert families() == ["DejaVu Sans", "Noto Sans CJK JP", "Malgun Gothic"]


def test_without_any_the_main_font_stands_alone(machine):
    machine("DejaVu Sans")
    assert families() == ["DejaVu Sans"]
