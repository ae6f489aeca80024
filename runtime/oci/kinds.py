"""Decisions: what a field is to hold, and whether what is there is that: strings, numbers and booleans apart,
as Go's decoder has them, by which engines write. `null` is as good as nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: The highest user and group that runc gives.
MAX_ID = (1 << 31) - 1
#: The one key of an object whose keys are names that are free.
ANY = "*"


class Wrong(Exception):
    """The field, and what is wrong with it."""


class Kind:
    """`says` is what is expected; `needed`: the object without it is none."""

    __slots__ = ("fits", "needed", "says")

    def __init__(self, says: str, fits: Callable[[Any], bool], *, needed: bool = False) -> None:
        self.says, self.fits, self.needed = says, fits, needed


def must(kind: Kind) -> Kind:
    return Kind(kind.says, kind.fits, needed=True)


def _within(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _all(kind: Kind) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(kind.fits(item) for item in value)


TEXT = Kind("a string", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a whole number", _within(-(1 << 63), (1 << 63) - 1))
COUNT = Kind("a whole number that is not negative", _within(0, (1 << 64) - 1))
WORD = Kind("a number from 0 to 4294967295", _within(0, (1 << 32) - 1))
ID = Kind(f"a number from 0 to {MAX_ID}", _within(0, MAX_ID))
TEXTS = Kind("a list of strings", _all(TEXT))
IDS = Kind(f"a list of numbers from 0 to {MAX_ID}", _all(ID))


def walk(value: Any, known: Any, path: str, unknown: list[str]) -> None:
    """`known` is a kind, an object or list of such, or a text: why it is refused. Takes away what is `null`,
    and what has no meaning here, whose names are added to `unknown`. Raises Wrong."""
    if isinstance(known, Kind):
        if not known.fits(value):
            raise Wrong(f"{path}: {known.says} is expected")
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise Wrong(f"{path}: it has a zero byte, where the kernel's strings end")
    elif isinstance(known, str):
        if value not in ("", [], {}, False, 0):
            raise Wrong(f"{path}: {known}")
    elif isinstance(known, list):
        if not isinstance(value, list):
            raise Wrong(f"{path}: a list is expected")
        for at, item in enumerate(value):
            walk(item, known[0], f"{path}[{at}]", unknown)
    else:
        _walk_object(value, known, path, unknown)


def _walk_object(value: Any, known: dict[str, Any], path: str, unknown: list[str]) -> None:
    if not isinstance(value, dict):
        raise Wrong(f"{path}: an object is expected")
    for key, item in list(value.items()):
        name = f"{path}.{key}" if path else key
        inner = known.get(ANY) or known.get(key)
        if item is not None and inner is not None:
            walk(item, inner, name, unknown)
            continue
        del value[key]
        if item is not None:
            unknown.append(name)
    for key, inner in known.items():
        if isinstance(inner, Kind) and inner.needed and value.get(key) in (None, ""):
            raise Wrong(f"{path}.{key}: it is missing")
