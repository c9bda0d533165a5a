"""What `pip install .` would install."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_is_named_and_brings_its_files():
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


def test_extras_are_what_the_requirement_files_say():
    """setuptools reads no `-r` lines, so the extras are written twice."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name, wanted in extras.items():
        lines = (ROOT / f"requirements-{name}.txt").read_text().splitlines()
        assert wanted == [line for line in lines if line and line[0] not in "#-"]
