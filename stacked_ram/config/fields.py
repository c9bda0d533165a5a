"""Checks and conversions of a section's fields by their types and ranges.

A field's type is a plain one, a Literal, a tuple, a union of these, or Annotated with a range of
annotated-types: `Annotated[int, Ge(1)]`. pydantic would do the same, but takes too long to import
for a command line whose help is made from these classes.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from stacked_ram.runtime.errors import UserError, nearest

Positive = Annotated[int, Ge(1)]
UpTo100 = Annotated[int, Ge(1), Le(100)]
Steps = Annotated[int, Ge(1), Le(10_000)]
Pixels = Annotated[int, Ge(1), Le(10_000)]  # a side of what a network is given
NotNegative = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NotNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
BelowOne = Annotated[float, Ge(0), Lt(1)]

PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def field_types(section: type) -> dict[str, Any]:
    """Each field's type, with its range."""
    return get_type_hints(section, include_extras=True)


def convert_fields(section: Any) -> None:
    """Bring a frozen dataclass's values to their fields' types. Raises UserError."""
    kinds = field_types(type(section))
    for field in dataclasses.fields(section):
        value = convert(field.name, getattr(section, field.name), kinds[field.name])
        object.__setattr__(section, field.name, value)


def convert(name: str, value: Any, kind: Any) -> Any:
    """A field's value as its type wants it: a list as a tuple, a whole number as a float.

    Raises UserError naming the field, the value, and what is allowed.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return in_range(name, convert(name, value, arguments[0]), arguments[1:])
    if origin in (Union, UnionType):
        return convert_union(name, value, arguments)
    if origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        hint = nearest(value, arguments)
        raise UserError(f"{name}: {shown(value)} is none of {', '.join(arguments)}{hint}")
    if origin is tuple:
        return convert_tuple(name, value, arguments)
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind in PLAIN and (not isinstance(value, kind) or isinstance(value, bool) != (kind is bool)):
        raise UserError(f"{name}: {shown(value)} is not {PLAIN[kind]}")
    if origin is dict and not isinstance(value, Mapping):
        raise UserError(f"{name}: {shown(value)} is not a mapping")
    if kind is float and not math.isfinite(value):
        raise UserError(f"{name}: {value} is not finite")
    return value


def convert_union(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """The value as the first of the types that takes it."""
    if value is None and NoneType in kinds:
        return None
    choices = [kind for kind in kinds if kind is not NoneType]
    for kind in choices[:-1]:
        try:
            return convert(name, value, kind)
        except UserError:
            continue
    return convert(name, value, choices[-1])


def convert_tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{name}: {shown(value)} is not a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise UserError(f"{name}: {shown(value)} does not have {len(kinds)} values")
    return tuple(convert(name, part, kind) for part, kind in zip(value, kinds, strict=True))


def in_range(name: str, value: Any, limits: tuple[Any, ...]) -> Any:
    for limit in limits:
        match limit:
            case Ge(ge=low) if value < low:
                raise UserError(f"{name}: {value} is below {low}")
            case Gt(gt=low) if value <= low:
                raise UserError(f"{name}: {value} is not above {low}")
            case Le(le=high) if value > high:
                raise UserError(f"{name}: {value} is above {high}")
            case Lt(lt=high) if value >= high:
                raise UserError(f"{name}: {value} is not below {high}")
    return value


def shown(value: Any) -> str:
    """A value as YAML would have it, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{''.join(c if c.isprintable() else repr(c)[1:-1] for c in value)}`"
    return "nothing" if value is None else str(value)
