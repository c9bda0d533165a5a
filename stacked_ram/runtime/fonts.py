"""The type that pictures are set in: DejaVu Sans, and for scripts that it lacks what the machine
has."""

from __future__ import annotations

import logging
from functools import cache

MAIN = "DejaVu Sans"  # comes with matplotlib: the same on every machine
OTHER_SCRIPTS = (
    *(f"Noto Sans CJK {place}" for place in ("SC", "TC", "JP", "KR")),
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
    "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI", "Leelawadee UI",
    "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS",
    *(f"Noto Sans {script}" for script in ("Devanagari", "Bengali", "Tamil", "Thai")),
)  # fmt: skip


@cache
def families() -> list[str]:
    """Font families for matplotlib, tried in this order for every letter."""
    from matplotlib import font_manager

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a weight that one lacks
    there = set(font_manager.get_font_names())
    return [MAIN, *(name for name in OTHER_SCRIPTS if name in there)]
