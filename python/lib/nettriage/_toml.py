"""Sections of a study file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ._nettriage import NettriageError


def table(section: str, entries: Mapping[str, Any]) -> str:
    """A section of TOML."""
    return "\n".join([f"[{section}]", *(f"{key} = {_value(value)}" for key, value in entries.items())])


def _value(value: Any) -> str:
    """A value of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, Iterable):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    raise NettriageError(f"{value!r}: a {type(value).__name__} has no place in a study; give a number, a string or a list")
