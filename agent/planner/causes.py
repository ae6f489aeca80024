"""Decisions: which fields differ between two fingerprinted things, as text for people.

Facets are canonical JSON (specs.fingerprint). Values that look like secrets are not repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

#: how many changed fields a cause names, and how long one value may be
FIELDS, WIDTH = 3, 60

_SECRET = re.compile(r"pass|secret|token|key|credential|auth", re.IGNORECASE)


def changes(old: str, new: str) -> str:
    """`environment.COLOR: blue -> green, command: [...] -> [...]` for two facets; "" when they are equal."""
    found = [f"{path}: {before} -> {after}" for path, before, after in differences(old, new)]
    more = len(found) - FIELDS
    return ", ".join(found[:FIELDS]) + (f" and {more} more" if more > 0 else "")


def differences(old: str, new: str) -> Iterator[tuple[str, str, str]]:
    """(field, old value, new value) for each leaf that differs, in order of the field's path."""
    try:
        before, after = json.loads(old or "{}"), json.loads(new or "{}")
    except ValueError:
        yield "definition", _short(old), _short(new)
        return
    yield from _walk((), before, after)


def _walk(path: tuple[str, ...], old: object, new: object) -> Iterator[tuple[str, str, str]]:
    if old == new:
        return
    if (isinstance(old, dict) or isinstance(new, dict)) and (
        isinstance(old, dict | None) and isinstance(new, dict | None)
    ):
        before, after = old or {}, new or {}
        for key in sorted(before.keys() | after.keys()):
            yield from _walk((*path, str(key)), before.get(key), after.get(key))
        return
    hidden = len(path) > 1 and bool(_SECRET.search(path[-1]))
    yield ".".join(path), _value(old, hidden), _value(new, hidden)


def _value(value: object, hidden: bool) -> str:
    if value is None:
        return "(unset)"
    if hidden:
        return "(hidden)"
    return _short(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
