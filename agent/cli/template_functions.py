"""Decisions: the functions of templates (agent.cli.template), as Go's text/template and Docker have them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.cli.template_text import LABEL

MAX_WIDTH = 10_000  # characters that pad and printf may add


class NoList(list[Any]):
    """What is null in JSON and prints as an empty list, as a nil slice of Go does."""


class NoMap(dict[str, Any]):
    """What is null in JSON and prints as an empty mapping, as a nil map of Go does."""


class Labelled(dict[str, Any]):
    """A row of a thing that has labels: {{.Label "key"}} is one of them, empty where it has none."""

    def __init__(self, row: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        super().__init__(row)
        self.labels = labels


class Misused(Exception):
    """The arguments are not what the function takes."""


def show(value: Any) -> str:
    """As Go's %v prints it: lists as [a b], mappings as map[k:v]."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case float():
            return repr(value).removesuffix(".0")
        case Mapping():
            return f"map[{' '.join(f'{show(key)}:{_inner(value[key])}' for key in sorted(value))}]"
        case list() | tuple():
            return f"[{' '.join(map(show, value))}]"
        case _:
            return str(value)


def _inner(value: Any) -> str:
    """In a mapping, a mapping without items stands for Go's struct{}: a set's members are such keys."""
    return "{}" if isinstance(value, Mapping) and not value else show(value)


def truth(value: Any) -> bool:
    """False for what is empty: false, 0, "", nothing, no items."""
    return bool(value)


def call(name: str, values: Sequence[Any]) -> Any:
    """Raises Misused."""
    least, most, function = _FUNCTIONS[name]
    if not least <= len(values) <= most:
        wanted = f"{least}" if least == most else f"{least} or more" if most > 9 else f"{least} to {most}"
        raise Misused(f"takes {wanted} arguments, not {len(values)}")
    try:
        return function(*values)
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise Misused(str(error)) from error


def _label(row: Any, key: Any) -> str:
    if not isinstance(row, Labelled):
        raise Misused("only a row of things with labels has them")
    return str(row.labels.get(_text(key), ""))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Misused(f"needs a text, not {show(value)}")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Misused(f"needs a number, not {show(value)}")
    return value


def _join(items: Any, separator: Any) -> str:
    """Docker's order; also the one that a pipeline gives (the list last)."""
    if isinstance(items, str) and isinstance(separator, list | tuple):
        items, separator = separator, items
    if items is None:
        return ""
    if not isinstance(items, list | tuple):
        raise Misused(f"needs a list, not {show(items)}")
    return _text(separator).join(map(show, items))


def _split(text: Any, separator: Any) -> list[str]:
    return _text(text).split(_text(separator)) if separator else list(_text(text))


def _pad(text: Any, before: Any, after: Any) -> str:
    left, right = _number(before), _number(after)
    if max(left, right) > MAX_WIDTH:
        raise Misused(f"more than {MAX_WIDTH} blanks")
    return " " * left + _text(text) + " " * right if text else ""


def _truncate(text: Any, length: Any) -> str:
    return _text(text)[: max(0, _number(length))]


def _length(value: Any) -> int:
    if value is None or isinstance(value, bool | int | float):
        raise Misused(f"{show(value)} has no length")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    """An empty text where a mapping has no such key."""
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key, "")
        elif value is None:
            return None
        else:
            number = _number(key)
            if not 0 <= number < _length(value):
                raise Misused(f"there is no item {number} of {_length(value)}")
            value = value[number]
    return value


def _slice(value: Any, *ends: Any) -> Any:
    numbers = [_number(end) for end in ends]
    start, stop = (*numbers, *(0, _length(value))[len(numbers) :])
    if not 0 <= start <= stop <= _length(value):
        raise Misused(f"{start} to {stop} is not inside of {_length(value)}")
    return value[start:stop]


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _print(*values: Any) -> str:
    """Blanks between two that are both no text, as Go's Sprint."""
    parts: list[str] = []
    for position, value in enumerate(values):
        if position and not isinstance(value, str) and not isinstance(values[position - 1], str):
            parts.append(" ")
        parts.append(show(value))
    return "".join(parts)


def _println(*values: Any) -> str:
    return " ".join(map(show, values)) + "\n"


_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>[0-9]*)(?P<precision>\.[0-9]*)?(?P<verb>.)")


def _printf(form: Any, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb == "%":
            return "%"
        if not left:
            raise Misused(f"{match[0]} has no value")
        if max(int(match["width"] or 0), int((match["precision"] or ".0")[1:] or 0)) > MAX_WIDTH:
            raise Misused(f"{match[0]} is wider than {MAX_WIDTH}")
        value = left.pop(0)
        shape = f"%{match['flags']}{match['width']}{match['precision'] or ''}"
        match verb:
            case "s" | "v":
                return (shape + "s") % show(value)
            case "q":
                return (shape + "s") % json.dumps(show(value), ensure_ascii=False)
            case "d" | "x" | "X" | "o" | "c":
                return (shape + verb) % _number(value)
            case "f" | "e" | "g" | "E" | "G":
                return (shape + verb) % float(value)
            case "t":
                return (shape + "s") % show(bool(value))
        raise Misused(f"{match[0]} is unknown")

    text = _VERB.sub(one, _text(form))
    if left:
        raise Misused(f"{len(left)} values too many")
    return text


class Written(dict[str, Any]):
    """Fields of a template that `json` shows as another `document`: docker's fields and the keys of its JSON
    differ, and a field that is always there may have no key."""

    def __init__(self, fields: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.document = document


def _plain(value: Any) -> Any:
    match value:
        case NoList() | NoMap():
            return None
        case Written():
            return _plain(value.document)
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


_MANY = 100
#: name -> (fewest arguments, most, function). `and` and `or` are evaluated by their caller.
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Any]]] = {
    LABEL: (2, 2, _label),
    "and": (1, _MANY, all),
    "or": (1, _MANY, any),
    "not": (1, 1, lambda value: not truth(value)),
    "len": (1, 1, _length),
    "index": (1, _MANY, _index),
    "slice": (1, 3, _slice),
    "print": (0, _MANY, _print),
    "printf": (1, _MANY, _printf),
    "println": (0, _MANY, _println),
    "eq": (2, _MANY, _equal),
    "ne": (2, 2, lambda a, b: a != b),
    "lt": (2, 2, lambda a, b: a < b),
    "le": (2, 2, lambda a, b: a <= b),
    "gt": (2, 2, lambda a, b: a > b),
    "ge": (2, 2, lambda a, b: a >= b),
    "json": (1, 1, _json),
    "join": (2, 2, _join),
    "split": (2, 2, _split),
    "lower": (1, 1, lambda value: _text(value).lower()),
    "upper": (1, 1, lambda value: _text(value).upper()),
    "title": (1, 1, lambda value: re.sub(r"\b[a-z]", lambda m: m[0].upper(), _text(value))),
    "pad": (3, 3, _pad),
    "truncate": (2, 2, _truncate),
}
NAMES = frozenset(_FUNCTIONS) - {LABEL}
