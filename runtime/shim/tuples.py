"""Values: NamedTuple for modules that every command and every shim loads.

typing.NamedTuple checks each annotation when a class is made, and dataclasses load inspect: 5 and 8 ms of the
start of a command. Type checkers see the one of typing (messages.py), which makes the same class.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Made(type):
    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        if not bases:
            return super().__new__(cls, name, bases, body)
        fields = body["__annotations__"]
        defaults = [body[field] for field in fields if field in body]
        made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])  # type: ignore[misc]
        made.__doc__ = body.get("__doc__")
        for key, value in body.items():
            if key not in fields and not key.startswith("__"):
                setattr(made, key, value)
        return made


class NamedTuple(metaclass=_Made):
    """Fields are the annotations of the class, in their order; those with a default come last. Methods are
    methods."""
