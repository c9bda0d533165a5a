"""The Python blocks of README.md and docs/python.md run as written, on small data."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image
from tiny import raw_photos

import stacked_ram as ram

ROOT = Path(__file__).parents[2]
# Makes any preset so small that it trains in a second.
SMALL = {
    "epochs": 1, "batch_size": 8, "workers": 0, "cache": "none", "device": "cpu",
    "pictures_every": 0, "core_size": 16, "feature_size": 16, "what_size": 16, "where_size": 8,
    "patch_size": 4, "num_glimpses": 3, "glance": None, "num_patches": 2, "retina": "dense",
    "policy_reads": "state", "first_location": "centre", "random_glimpses": 0.0,
    "weights": "none", "precision": "float32",
}  # fmt: skip


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """Return the page's Python blocks, each with its first line number."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(1)), match[1])
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    raw_photos(tmp_path / "my_photos")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for place in ("photo.jpg", "folder/1.jpg", "folder/deep/2.jpg"):
        (tmp_path / place).write_bytes((tmp_path / "my_photos/dot/1.jpg").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    # The pages name real presets, which the test makes small.
    train, create_model = ram.train, ram.create_model
    monkeypatch.setattr(ram, "train", lambda *names, **given: train(*names, **{**given, **SMALL}))
    monkeypatch.setattr(
        ram, "create_model", lambda name, **given: create_model(name, pretrained=False, **given)
    )
    names = {"images_BCHW": torch.rand(2, 3, 96, 128)}
    blocks = python_blocks(ROOT / page)
    assert blocks
    for line, code in blocks:
        if file := re.match(r"# (\w+\.py)\n", code):
            Path(file[1]).write_text(code)
        # so that a traceback has the page's lines
        exec(compile("\n" * line + code, ROOT / page, "exec"), names)
    plt.close("all")
    sys.modules.pop("my_parts", None)
    assert Path("results/mine/best.safetensors").is_file()
