"""Values: what is asked for in the kernel's own words: namespaces, rules of devices, sizes of pages."""

from __future__ import annotations

import re
from typing import Annotated, Any

from specs import shapes
from specs.shapes import Mistake

#: Of processor time, as the kernel's scheduler has it (sched-bwc.rst); -1 is no limit.
Microseconds = Annotated[int, *shapes.whole(-1, 10_000_000)]


def joins(*words: str) -> Any:
    """A word, or container:NAME; Compose's service:NAME means the same, as a service is a container here."""

    def read(value: Any) -> str:
        found = shapes.text(value)
        kind, _, name = found.partition(":")
        if kind in ("container", "service") and name:
            return f"container:{name}"
        return shapes.choice(*words, "container:NAME")(found)

    pattern = {"type": "string", "pattern": "^(container|service):.+"}
    return shapes.shape(read, {"anyOf": [*shapes.words_schema(words)["anyOf"], pattern]})


DEVICE_RULE = re.compile(r"[abc] ([0-9]+|\*):([0-9]+|\*) (?!.*(.).*\3)[rwm]{1,3}")


def device_rule(value: Any) -> str:
    found = " ".join(shapes.text(value).split())
    if not DEVICE_RULE.fullmatch(found):
        raise Mistake(f"cannot read device rule {found!r}: write such as 'c 10:229 rwm', * for any number")
    return found


PAGE = re.compile(r"([0-9]+) ?([KMG])i?B?", re.IGNORECASE)


def pages(value: Any) -> Any:
    """{"2MiB": ...} -> {"2MB": ...}, as the kernel calls the size of a page."""
    if not isinstance(value, dict):
        return value
    out = {}
    for key, size in value.items():
        found = PAGE.fullmatch(str(key))
        if found is None:
            raise Mistake(f"cannot read size of a page {key!r}: write such as 2MB", path=(key,))
        out[f"{int(found[1])}{found[2].upper()}B"] = size
    return out


def inherited(value: Any) -> tuple[str, bool]:
    """[container:]NAME[:ro] -> (name, read only)."""
    found = shapes.text(value)
    name, _, mode = found.removeprefix("container:").partition(":")
    if not name or mode not in ("", "ro", "rw"):
        raise Mistake(f"cannot read {found!r}: write NAME, or NAME:ro")
    return name, mode == "ro"
