"""Reference tables made from the sources: each field of a dataclass with type, default and text.

The text of a field is the string below it, from which `--help` is made too. Sources are parsed, not
imported, so that the site can be built without the toolkit's packages.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGURATION = {
    "data": ("stacked_ram/config/data.py", "DataConfig"),
    "model": ("stacked_ram/config/model.py", "ModelConfig"),
    "training": ("stacked_ram/config/training.py", "TrainingConfig"),
}
COMMANDS = {
    "prepare_data.py": ("stacked_ram/preparation/options.py", "PrepareOptions"),
    "main.py train": ("stacked_ram/cli/main.py", "Train"),
    "main.py test": ("stacked_ram/cli/test.py", "Test"),
    "main.py predict": ("stacked_ram/cli/predict.py", "Predict"),
    "main.py serve": ("stacked_ram/cli/serve.py", "Serve"),
    "main.py tune": ("stacked_ram/cli/main.py", "Tune"),
    "main.py export": ("stacked_ram/cli/export.py", "Export"),
    "main.py info": ("stacked_ram/cli/info.py", "Info"),
    "main.py demo": ("stacked_ram/cli/main.py", "Demo"),
    "viz.py": ("stacked_ram/cli/viz.py", "Viz"),
}
INSIDE = {"settings": ("stacked_ram/serving/settings.py", "Settings")}  # a field of fields
NAMED_TYPES = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "str": "text",
    "Path": "path",
    "None": "none",
}
ALIASES = "stacked_ram/config/fields.py"  # Positive = Annotated[int, Ge(1)], and others
LIMITS = {"Ge": "at least", "Gt": "above", "Le": "at most", "Lt": "below"}


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    default: str
    text: str
    group: str
    """The comment above a group of fields; empty: none."""
    positional: bool


def configuration() -> str:
    """Return the reference of the configuration as Markdown."""
    parts = []
    for section, (path, name) in CONFIGURATION.items():
        summary, fields = read_class(path, name)
        parts += [f"## {section}", summary]
        groups = dict.fromkeys(field.group for field in fields)
        for group in groups:
            parts += [f"### {group}"] if group else []
            parts.append(table([field for field in fields if field.group == group]))
    return "\n\n".join(parts)


def commands() -> str:
    """Return the options of every command as Markdown."""
    parts = []
    for command, (path, name) in COMMANDS.items():
        summary, fields = read_class(path, name)
        parts += [f"## {command}", summary, table(fields, flags=True)]
    return "\n\n".join(parts)


def presets() -> str:
    """Return every preset's YAML, whose header says what it is, as Markdown."""
    files = sorted((ROOT / "configs").glob("*.yaml"))
    return "\n\n".join(f"## {file.stem}\n\n```yaml\n{file.read_text()}```" for file in files)


def table(fields: list[Field], flags: bool = False) -> str:
    lines = ["| option | values | default | |" if flags else "| field | values | default | |"]
    lines.append("|---|---|---|---|")
    for field in fields:
        name = field.name
        if flags:
            name = name.upper() if field.positional else f"--{name.replace('_', '-')}"
        lines.append(f"| `{name}` | {field.type} | {field.default} | {field.text} |")
    return "\n".join(lines)


def read_class(path: str, name: str) -> tuple[str, list[Field]]:
    """Return a dataclass's summary and fields. Raises ValueError for a field without a text."""
    source = (ROOT / path).read_text()
    module = ast.parse(source)
    shared = ast.parse((ROOT / ALIASES).read_text())
    aliases = {
        node.targets[0].id: node.value
        for node in [*shared.body, *module.body]
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    node = next(
        node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name
    )
    fields, group, lines = [], "", source.splitlines()
    for before, statement in enumerate(node.body[1:]):
        previous = node.body[before]
        for line in lines[previous.end_lineno : statement.lineno - 1]:
            if line.startswith("    # "):
                group = line.removeprefix("    # ")
        if not isinstance(statement, ast.AnnAssign):
            continue
        field = ast.unparse(statement.target)
        if field == "fields":  # those of the configuration, which have their own page
            continue
        if field in INSIDE:
            fields += read_class(*INSIDE[field])[1]
            continue
        after = node.body[before + 2] if before + 2 < len(node.body) else None
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
            raise ValueError(f"{path}: {name}.{field} has no text below it")
        kind = ast.unparse(statement.annotation)
        fields.append(
            Field(
                name=field,
                type=type_words(statement.annotation, aliases),
                default=default_words(statement.value),
                text=" ".join(str(after.value.value).split()),
                group=group,
                positional="Positional[" in kind,
            )
        )
    return (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " "), fields


def type_words(node: ast.expr, aliases: dict[str, ast.expr]) -> str:
    """Return a type in words. Raises ValueError for a type that has none yet."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{type_words(left, aliases)}; or {type_words(right, aliases)}"
        case ast.Constant(value=None):
            return "none"
        case ast.Name(id=name) if name in NAMED_TYPES:
            return NAMED_TYPES[name]
        case ast.Name(id=name) if name in aliases:
            return type_words(aliases[name], aliases)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            values = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            return ", ".join(f"`{ast.literal_eval(value)}`" for value in values)
        case ast.Subscript(value=ast.Name(id="Positional"), slice=inner):
            return type_words(inner, aliases)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *limits])):
            ranges = [
                f"{LIMITS[limit.func.id]} {ast.unparse(limit.args[0])}"
                for limit in limits
                if isinstance(limit, ast.Call)
                and isinstance(limit.func, ast.Name)
                and limit.func.id in LIMITS
            ]
            return ", ".join([type_words(inner, aliases), " and ".join(ranges)]).removesuffix(", ")
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[inner, last])):
            if isinstance(last, ast.Constant):
                return f"list of: {type_words(inner, aliases)}"
            first, second = type_words(inner, aliases), type_words(last, aliases)
            return f"two of: {first}" if first == second else f"list of: {first}; {second}"
        case ast.Subscript(value=ast.Name(id="dict")):
            return "mapping"
    raise ValueError(f"no words for the type {ast.unparse(node)}; add them to docs/reference.py")


def default_words(node: ast.expr | None) -> str:
    if node is None:
        return ""
    text = ast.unparse(node)
    if text in ("None", "()", "_NOT_GIVEN"):
        return "none"
    if text.startswith("field(default_factory=dict"):
        return "`{}`"
    if text in ("True", "False"):
        return f"`{text.lower()}`"
    return f"`{text.strip(chr(39))}`"
