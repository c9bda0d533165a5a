"""The notebooks of examples/ are whole as committed. `.ci/notebooks.py` runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
NAMES = ["mnist", "own_folder", "own_parts", "quickstart", "scan_path", "search"]


def test_every_notebook_is_tested_and_linked():
    assert [path.stem for path in NOTEBOOKS] == NAMES
    for page in ("examples/README.md", "mkdocs.yml"):
        text = (ROOT / page).read_text()
        assert all(f"{name}.ipynb" in text for name in NAMES), page


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_with_its_outputs(name):
    path = ROOT / "examples" / f"{name}.ipynb"
    text = path.read_text()
    assert len(text) < 1_000_000
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "not run from a clean state, top to bottom"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = re.sub(r'"image/\w+": "[^"]*"', "", text)  # base64 has slashes
    assert not re.findall(r"(?:/home|/root|/work|/tmp|/usr|/Users|[A-Z]:\\\\)[/\\\w.]+", said)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_a_valid_format(name):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4))


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_notebook_lead_somewhere(name):
    cells = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("https://") or (ROOT / "examples" / link).is_file(), link
