"""Decisions: which fields differ between what was and what is wanted, as text for people.

Facets are what specs.fingerprint writes down. Values that look like secrets are not repeated.
"""

from __future__ import annotations

import re

from specs.fingerprint import changed_fields

#: how many changed fields a cause names, and how long one value may be
FIELDS, WIDTH = 3, 60

_SECRET = re.compile(r"pass|secret|token|key|credential|auth", re.IGNORECASE)
_BYTES = ("secret", "config")
_FREE = ("environment.", "labels.", "annotations.")


def changes(old: str, new: str) -> str:
    """`environment.COLOR: blue -> green, command: ... -> ...` for two facets; "" when they are equal."""
    found = [
        text for field, before, after in changed_fields(old, new) if (text := _change(field, before, after))
    ]
    more = len(found) - FIELDS
    return ", ".join(found[:FIELDS]) + (f" and {more} more" if more > 0 else "")


def _change(field: str, before: str, after: str) -> str:
    """Of the bytes of a secret or a config only that they changed; that it is there at all is a field of its
    own."""
    kind, _, name = field.partition(".")
    if kind in _BYTES:
        return f"{kind} {name} changed" if before and after else ""
    return f"{field}: {_value(field, before)} -> {_value(field, after)}"


def _value(field: str, value: str) -> str:
    if not value:
        return "(unset)"
    if field.startswith(_FREE) and _SECRET.search(field.partition(".")[2]):
        return "(hidden)"
    text = "".join(c if c.isprintable() else " " for c in value)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
