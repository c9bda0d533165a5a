"""The contents of an installation by `pip install .`."""

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def test_every_package_is_listed_with_its_files():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "stacked_ram").rglob("__init__.py")
    }
    assert set(settings["packages"]) == found | {"stacked_ram.configs"}
    assert (ROOT / settings["package-dir"]["stacked_ram.configs"] / "demo.yaml").is_file()
    for package, patterns in settings["package-data"].items():
        folder = ROOT / settings["package-dir"].get(package, package.replace(".", "/"))
        assert all(list(folder.glob(pattern)) for pattern in patterns)


def test_extras_agree_with_the_requirement_files():
    """setuptools reads no `-r` lines, so the extras are written twice."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name, wanted in extras.items():
        lines = (ROOT / f"requirements-{name}.txt").read_text().splitlines()
        assert wanted == [line for line in lines if line and line[0] not in "#-"]


def test_the_licence_of_every_requirement_is_listed():
    """docs/licences.md is up to date; .ci/licences.py writes it."""
    page = (ROOT / "docs" / "licences.md").read_text()
    for file in ROOT.glob("requirements*.txt"):
        for line in file.read_text().splitlines():
            if line and line[0] not in "#- ":
                name = Requirement(line.partition(" #")[0]).name.replace("_", "-").lower()
                extra = file.stem.removeprefix("requirements-")
                assert f"| {name} |" in page or extra == "lowest", f"{file.name}: {name}"


def test_a_room_imports_only_lower_rooms():
    """The contracts of pyproject.toml; `lint-imports` says the same."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_lowest_versions_agree_with_the_bounds():
    """requirements-lowest.txt is up to date with the lower bounds."""
    lines = (ROOT / "requirements-lowest.txt").read_text().splitlines()
    pinned: dict[str, list[Version]] = {}  # several if it depends on Python's version
    for line in lines:
        if line and line[0] not in "# ":
            pin = Requirement(line)
            version = Version(str(pin.specifier).removeprefix("=="))
            pinned.setdefault(pin.name.replace("_", "-"), []).append(version)
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and line[0] != "#":
            wanted = Requirement(line)
            floor = next(part.version for part in wanted.specifier if part.operator == ">=")
            assert min(pinned[wanted.name.replace("_", "-")]) == Version(floor), line
