"""Configurations as YAML and as plain dictionaries: read, and changed by field names.

Whatever comes in is checked whole: an unknown section or key, and a value of the wrong kind, end in
a UserError that names the file and the key.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from stacked_ram.config.data import DataConfig
from stacked_ram.config.fields import convert, field_types
from stacked_ram.config.model import ModelConfig
from stacked_ram.config.presets import find_preset
from stacked_ram.config.schema import Config
from stacked_ram.config.training import TrainingConfig
from stacked_ram.runtime.errors import UserError, nearest

# Fields and values of earlier versions, which are still read.
RENAMED = {
    "checkpoint_steps": "activation_checkpointing",
    "accumulate": "accumulation_steps",
}
DEEPEST, MOST_NODES = 50, 1_000_000  # of a YAML text
RENAMED_VALUES = {"patch_unit": {"share": "fraction"}}
SECTIONS: dict[str, type[DataConfig | ModelConfig | TrainingConfig]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
}
EXPONENT = (  # numbers that YAML 1.1 takes for text
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def field_sections() -> dict[str, str]:
    """Every field's name and the section it is in."""
    return {
        field.name: section
        for section, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
    }


def new_name(name: str, value: Any) -> tuple[str, Any]:
    """A field and its value, as they are called in this version."""
    name = RENAMED.get(name, name)
    renamed = RENAMED_VALUES.get(name, {})
    return name, renamed.get(value, value) if isinstance(value, str) else value


def from_dict(values: Any, source: str) -> Config:
    """Build a Config from a mapping of sections.

    Raises UserError for an unknown section or key (naming the nearest known one) and for a value
    of the wrong kind. `source` is the file named in the message.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected the sections {', '.join(SECTIONS)}")
    known = field_sections()
    contents: dict[str, dict[str, Any]] = {}
    for section, content in values.items():
        if section not in SECTIONS:
            raise UserError(f"{source}: unknown section `{section}`{nearest(section, SECTIONS)}")
        if not isinstance(content, dict):
            raise UserError(f"{source}: section `{section}` is not a mapping of fields")
        contents[section] = dict(new_name(key, content[key]) for key in content)
        for key in content:
            if RENAMED.get(key) in content:
                raise UserError(f"{source}: {section}.{key} is now {RENAMED[key]}; give only that")
        kinds = field_types(SECTIONS[section])
        for key, value in contents[section].items():
            if known.get(key) != section:
                moved = f"; it belongs in section `{known[key]}`" if key in known else ""
                raise UserError(
                    f"{source}: unknown key `{section}.{key}`{moved or nearest(key, known)}"
                )
            convert(f"{source}: {section}.{key}", value, kinds[key])
    if contents.get("training", {}).get("estimator") == "pathwise":
        contents.setdefault("model", {}).setdefault("snap", False)
    try:
        return Config(
            data=DataConfig(**contents.get("data", {})),
            model=ModelConfig(**contents.get("model", {})),
            training=TrainingConfig(**contents.get("training", {})),
        )
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


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
        values = parse_yaml(text) or {}
        twice = repeated_key(yaml.compose(text, yaml.SafeLoader))
        if twice is not None:
            raise UserError(f"{path}: `{twice}` is given twice")
        return from_dict(values, str(path))
    except yaml.YAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if hasattr(error, "problem_mark") else ""
        raise UserError(f"{path}: not valid YAML{where}") from None


def dump_yaml(values: Any) -> str:
    """YAML of plain values, which `parse_yaml` reads as the same: texts that look like its numbers
    are quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_implicit_resolver(*EXPONENT)
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def parse_yaml(text: str) -> Any:
    """Plain values from YAML. Raises yaml.YAMLError, also for a text that holds itself, is very
    deep, or grows very large by its aliases.

    PyYAML follows YAML 1.1, in which 1e-3 is a text (1.0e-3 is a number); here it is a number.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver(*EXPONENT)
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        check_size(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("too deep") from None
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # PyYAML's own, for a tag or a date that does not suit its value
        raise yaml.YAMLError(str(error)) from None


def check_size(node: Any, sizes: dict[int, int], depth: int = 0) -> int:
    """Count the nodes of a YAML tree; an alias counts as all that it stands for.

    sizes: of the nodes that were counted, by id; 0: being counted. Raises yaml.YAMLError.
    """
    import yaml

    if id(node) not in sizes:
        sizes[id(node)] = 0
        parts = node.value if isinstance(node.value, list) else []
        nodes = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = 1 + sum(check_size(one, sizes, depth + 1) for one in nodes)
    size = sizes[id(node)]
    if not size or depth > DEEPEST or size > MOST_NODES:
        raise yaml.YAMLError("holds itself" if not size else "too deep or too large")
    return size


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
    for given, old in values.items():
        name, value = new_name(given, old)
        if name not in sections:
            raise UserError(f"{source}: unknown field `{name}`{nearest(name, sections)}")
        tree[sections[name]][name] = value
    return from_dict(tree, source)
