"""Configurations as YAML and as plain dictionaries: read, and changed by field names.

Whatever comes in is checked whole: an unknown section or key, and a value of the wrong kind, end in
a UserError that names the file and the key.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stacked_ram.config.presets import find_preset
from stacked_ram.config.schema import Config
from stacked_ram.runtime.errors import UserError, nearest

RENAMED = {"checkpoint_steps": "activation_checkpointing"}  # fields of earlier versions
SECTIONS = {one.name: one.default_factory for one in dataclasses.fields(Config)}


def field_sections() -> dict[str, str]:
    """Every field's name and the section it is in."""
    return {
        one.name: section for section, kind in SECTIONS.items() for one in dataclasses.fields(kind)
    }


def from_dict(values: Any, source: str) -> Config:
    """Build a Config from a mapping of sections.

    Raises UserError for an unknown section or key (naming the nearest known one) and for a value
    of the wrong kind. `source` is the file named in the message.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(values, dict):
        raise UserError(f"{source}: expected the sections {', '.join(SECTIONS)}")
    values = dict(values)
    for section, content in list(values.items()):
        if section not in SECTIONS:
            raise UserError(f"{source}: unknown section `{section}`{nearest(section, SECTIONS)}")
        if not isinstance(content, dict):
            raise UserError(f"{source}: section `{section}` is not a mapping of fields")
        values[section] = content = {RENAMED.get(key, key): content[key] for key in content}
        known = field_sections()
        for key in content:
            if known.get(key) != section:
                moved = f"; it belongs in section `{known[key]}`" if key in known else ""
                raise UserError(
                    f"{source}: unknown key `{section}.{key}`{moved or nearest(key, known)}"
                )
    try:
        config = TypeAdapter(Config).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{source}: {place}: {first['msg']}, got {first['input']!r}") from None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    built = to_dict(config)
    for section, content in values.items():
        for key, value in content.items():  # pydantic takes true for 1
            if isinstance(value, bool) and not isinstance(built[section][key], bool):
                raise UserError(f"{source}: {section}.{key}: {str(value).lower()} is no number")
    return config


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Plain values for YAML and JSON (tuples become lists)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, tuple) else value

    return plain(dataclasses.asdict(config))


def load_config(name_or_path: str | Path) -> Config:
    """Read a config: a YAML file, or a preset by its name. Raises UserError if there is none, if it
    is not YAML, or if anything in it is wrong."""
    import yaml

    path = find_preset(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read the config ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a config: no text in UTF-8") from None
    try:
        twice = repeated_key(yaml.compose(text, yaml.SafeLoader))
        if twice is not None:
            raise UserError(f"{path}: `{twice}` stands there twice")
        return from_dict(yaml.safe_load(text) or {}, str(path))
    except yaml.YAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if hasattr(error, "problem_mark") else ""
        raise UserError(f"{path}: not valid YAML{where}") from None


def repeated_key(node: Any) -> str | None:
    """A key that a YAML mapping has twice (YAML itself would take the last), if there is one."""
    seen: set[str] = set()
    for key, value in node.value if getattr(node, "id", "") == "mapping" else ():
        if str(key.value) in seen:
            return str(key.value)
        seen.add(str(key.value))
        if found := repeated_key(value):
            return found
    return None


def replace_fields(config: Config, values: dict[str, Any], source: str = "fields") -> Config:
    """A config with some fields changed by their flat names, checked anew."""
    tree = to_dict(config)
    sections = field_sections()
    for name, value in values.items():
        if name not in sections:
            raise UserError(f"{source}: unknown field `{name}`{nearest(name, sections)}")
        tree[sections[name]][name] = value
    return from_dict(tree, source)
