"""What MkDocs does besides: pages from the whole repository, reference tables, equations.

The site has the layout of the repository, so that a relative link between two pages works both on
the site and where the files are read as they are.

A notebook becomes a page with its outputs.

Markers in pages, which only the site replaces:
    <!-- configuration -->, <!-- commands -->, <!-- presets -->     tables made by reference.py
    <!-- file: examples/own_core.py -->                            a file's text
"""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import reference  # noqa: E402  (beside this file)

PUBLISHED = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/**/*.md", "docs/**/*.png",
    "docs/site.css", "datasets/README.md", "configs/README.md", "examples/README.md",
    "examples/*.py", "examples/*.ipynb", "results/*.md", "results/pictures/*",
    "results/tables/*.csv", "benchmarks/README.md", "benchmarks/*.json",
    "stacked_ram/runs/demo/README.md",
)  # fmt: skip


class PublishedFile(File):
    def is_documentation_page(self) -> bool:
        return super().is_documentation_page() or self.src_uri.endswith(".ipynb")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Publish the repository's pages in place of the folder docs alone; keep the theme's files."""
    theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = sorted({path for pattern in PUBLISHED for path in ROOT.glob(pattern)})
    pages = [
        PublishedFile(
            path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls
        )
        for path in paths
    ]
    return Files([*theme, *pages])


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    if page.file.src_uri.endswith(".ipynb"):
        return notebook_page(json.loads(markdown), page.file.src_uri)
    try:
        for name in ("configuration", "commands", "presets"):
            marker = f"<!-- {name} -->"
            if marker in markdown:
                markdown = markdown.replace(marker, getattr(reference, name)())
    except ValueError as error:
        raise PluginError(str(error)) from error
    return re.sub(r"<!-- file: (\S+\.py) -->", included, markdown)


def notebook_page(notebook: dict, name: str) -> str:
    """Return the cells of a notebook with their outputs as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [shown(output) for output in cell["outputs"]]
    parts.append(f"The notebook itself: `{name}` in the repository.")
    return "\n\n".join(parts)


def shown(output: dict) -> str:
    data = output.get("data", {})
    for kind in ("image/png", "image/gif"):
        if kind in data:
            return f"![output](data:{kind};base64,{''.join(data[kind]).strip()})"
    if "text/html" in data:  # a table of pandas
        return "".join(data["text/html"])
    text = "".join(output["text"] if "text" in output else data["text/plain"])
    return f"```text\n{text.rstrip()}\n```"


def included(match: re.Match[str]) -> str:
    return f"```python\n{(ROOT / match[1]).read_text()}```"


def on_page_content(content: str, **_: object) -> str:
    """Turn the equations that pymdownx.arithmatex marked into MathML."""

    def mathml(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        return convert(html.unescape(match[2]), display=display)

    pattern = r'<(div|span) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>'
    return re.sub(pattern, mathml, content, flags=re.DOTALL)
