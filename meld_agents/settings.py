"""Settings: frozen dataclasses filled from YAML and the command line.

Types are coerced by the field they fill (YAML reads ``3e-4`` as a string), unknown keys are
refused with the nearest match.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

#: Bounds for ``check_ranges``: the smallest positive and the largest finite number.
ABOVE_ZERO, FINITE = sys.float_info.min, sys.float_info.max


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "settings") -> T:
    """Builds the dataclass ``cls`` from plain values.

    Args:
        cls: a dataclass whose fields are int, float, bool, str, tuples of these, or optional.
        values: by field name.
        where: named in errors, e.g. ``"agent 'meld'"``.

    Raises:
        ValueError: an unknown key (with the nearest match) or a value that does not fit its field.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = [key for key in values if key not in names]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}{suggestion(unknown[0], names)}")
    return cls(**{key: coerce(value, hints[key], f"{where}: {key}") for key, value in values.items()})


def based_on(
    bases: Mapping[str, Mapping[str, Any]], agent: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain settings, those of their named ``base`` completed; ``paper`` is the base if none is named.

    Raises:
        ValueError: an unknown base (with the nearest match).
    """
    values = dict(settings)
    base = values.pop("base", "paper")
    if base not in bases:
        raise ValueError(f"agent {agent!r}: unknown base {base!r}{suggestion(str(base), list(bases))}")
    return {**bases[base], **values}


def check_ranges(settings: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Checks the numbers of a settings dataclass; of a tuple every one, and that there are some.

    Args:
        settings: the dataclass; a field that is ``None`` is left alone.
        ranges: least and largest value by field; ``ABOVE_ZERO`` as the least leaves out 0.

    Raises:
        ValueError: the first field that is out of its range, or not a number at all.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if value == () or not all(low <= number <= high for number in numbers):  # NaN is in no range
            least = "above 0" if low == ABOVE_ZERO else f"at least {low:g}"
            most = f" and at most {high:g}" if high < FINITE else ""
            raise ValueError(f"{name}: must be {least}{most}, got {value!r}")


def part_of(settings: Any, cls: type[T]) -> T:
    """The dataclass ``cls`` filled from those fields of ``settings`` that have the same names."""
    names = (f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
    return cls(**{name: getattr(settings, name) for name in names})


def to_mapping(settings: Any) -> dict[str, Any]:
    """The plain values of a settings dataclass, tuples as lists, fit for YAML and JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(settings).items()}


def suggestion(wrong: str, known: list[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known name, else the list of known names."""
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def coerce(value: Any, kind: Any, where: str) -> Any:
    """``value`` as ``kind``, where nothing is lost by it.

    Raises:
        ValueError: ``where``, the value, and what was expected.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return coerce(value, next(o for o in options if o is not type(None)), where)
    if origin is typing.Literal:
        if value not in options:
            raise ValueError(f"{where}: {value!r} is not one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        return tuple(coerce(item, options[0], where) for item in value)
    if kind not in _SCALARS:
        return value
    try:
        return _SCALARS[kind](value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: expected {kind.__name__}, got {value!r}") from None


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or float(value) != int(float(value)):
        raise ValueError
    return int(float(value))


def _as_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _as_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_SCALARS: dict[Any, Any] = {bool: _as_bool, int: _as_int, float: _as_float, str: _as_str}
