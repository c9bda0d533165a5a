"""The presets: the YAML files of configs/, found by name from any folder."""

from __future__ import annotations

from pathlib import Path

from stacked_ram.runtime.errors import UserError, nearest


def presets_folder() -> Path:
    """The folder of the presets: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def list_presets() -> list[str]:
    """The names of all presets, in alphabetical order."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def find_preset(name_or_path: str | Path) -> Path:
    """The YAML file meant by a path, by a preset's name, or by configs/NAME.yaml.

    A file that exists comes before a preset. Raises UserError naming the nearest preset.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = list_presets()
    name = path.stem if path.suffix in (".yaml", ".yml") else path.name
    if name in names and path.parent in (Path(), Path("configs")):
        return presets_folder() / f"{name}.yaml"
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a YAML file or the name of a preset")
    hint = nearest(name, names) or f"; the presets are {', '.join(names)}"
    raise UserError(f"{path}: no such file or preset{hint}")
