"""Pictures for a paper's column, a page and a slide."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from small_runs import noise_photo, recorded, tiny_run
from test_whole_set import random_records

import stacked_ram as ram
from stacked_ram.cli.viz import main
from stacked_ram.evaluation.early_exit import Stop
from stacked_ram.viz import figures
from stacked_ram.viz.attention_map import attention_figure
from stacked_ram.viz.compare import compare_figure, compare_overview
from stacked_ram.viz.explained import explain_record, explained_figure
from stacked_ram.viz.gallery import gallery_figure
from stacked_ram.viz.overview import overview_figure
from stacked_ram.viz.style import WIDTHS, drawn, drawn_for


@pytest.mark.parametrize("width", ["column", "slide"])
def test_no_text_is_cut_at_an_edge(width):
    glance = {"glance": (8, 8), "num_glimpses": 6}
    single, stack = tiny_run(**glance), tiny_run(**glance, stack="rnn", num_levels=2)
    stopped, levels = (recorded(run.model, noise_photo()) for run in (single, stack))
    stopped = dataclasses.replace(stopped.until(4), stop=Stop(0.99))
    whole, names = random_records(), ("a long name of a run", "another run")
    with drawn_for(width):
        made = [
            *(part(stopped) for part in (figures.story, *figures.PARTS.values())),
            figures.story(levels),
            gallery_figure([stopped, levels], "Most confident right predictions"),
            attention_figure(levels, stack.model),
            explained_figure(stopped, explain_record(single, stopped, places=12)),
            compare_figure([(stopped, levels)], names),
            compare_overview((whole, whole), names),
            overview_figure(whole, "run: 40 photos of letters, test split"),
        ]
    for figure in made:
        assert figure.get_figwidth() <= WIDTHS[width][0]
        drawn(figure, 50)
        texts = texts_of(figure)
        edges = np.array([text.get_window_extent().extents for text in texts])
        assert edges[:, :2].min() > -1
        assert (edges[:, 2:] < figure.bbox.max + 1).all()
        assert min(text.get_fontsize() for text in texts) >= 4.5


def texts_of(figure: Figure) -> list[Text]:
    return [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]


def test_the_command_and_python_take_a_width(run_folder, photos, tmp_path, capsys):
    photo = next(Path(photos, "test").rglob("*.png"))
    words = [str(run_folder), str(photo), "--width", "column", "--out", str(tmp_path), "--format"]
    main([*words, "svg"])
    main([*words, "png"])
    (svg,), (png,) = tmp_path.glob("*.svg"), tmp_path.glob("*.png")
    assert 'width="252pt"' in svg.read_text() and "<text" in svg.read_text()
    assert Image.open(png).width == 1050
    result = ram.load(run_folder).look(photo)
    assert Image.open(result.save(tmp_path / "slide.png", width="slide")).width == 1925
    with pytest.raises(ram.UserError, match="width: `poster` is none of column, page, slide"):
        result.save(tmp_path / "poster.png", width="poster")
    assert main([str(run_folder), "--report", "--width", "slide"]) == 2
    assert "--width" in capsys.readouterr().err
