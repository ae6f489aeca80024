"""Decisions: fields that people write as a table or as a list of KEY=VALUE, and the value that they mean.

All forms are Compose's (compose-spec, 05-services.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from specs.shapes import Mistake, Mistakes, address, kind_of, shape, text

_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}},
        {"type": "array", "items": {"type": "string"}},
    ]
}


_HOSTS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "additionalProperties": {
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
            },
        },
        {"type": "array", "items": {"type": "string"}},
    ]
}
#: Settings of kernel.* that belong to the ipc namespace: ipc_namespaces(7).
NAMESPACED_KERNEL = tuple(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)

Pair = tuple[str | int, str, Any]


def _pairs(value: Any) -> list[Pair]:
    """(path, key, value or None) of a map or of a list of KEY=VALUE."""
    if isinstance(value, dict):
        return [(key, key, item) for key, item in value.items()]
    if not isinstance(value, list):
        raise Mistake(f"write a table or a list, not {kind_of(value)}")
    return [(index, *_split(item)) for index, item in enumerate(value)]


def _split(item: Any) -> tuple[str, Any]:
    """("", item) for what is no text; `_read` reports it."""
    if not isinstance(item, str):
        return "", item
    key, found, rest = item.partition("=")
    return key, rest if found else None


def _read(value: Any, check: Callable[[str], None], empty: str | None) -> dict[str, Any]:
    """Every pair; every mistake at its item. `check` raises for a key that cannot be."""
    out: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for path, key, item in _pairs(value):
        try:
            if isinstance(path, int) and not isinstance(value[path], str):
                raise Mistake(f"write KEY=VALUE, not {kind_of(value[path])}")
            check(key)
            out[key] = empty if item is None else text(item)
        except Mistake as mistake:
            mistakes.append(Mistake(str(mistake), mistake.hint, (path,)))
    if mistakes:
        raise Mistakes(mistakes)
    return out


def environment(value: Any) -> dict[str, str | None]:
    """None: taken from the variables of the agent, left out when it is not there."""

    def check(key: str) -> None:
        if not key or "=" in key or "\0" in key:
            raise Mistake(f"{key!r} is not a variable's name")

    return _read(value, check, None)


def mapping(value: Any) -> dict[str, str]:
    """Labels, annotations, options: a key without a value has an empty one."""
    return _read(value, _some_key, "")


def _some_key(key: str) -> None:
    if not key:
        raise Mistake("a key is missing before =")


def own_annotations(value: Any) -> dict[str, str]:
    """As `mapping`; what begins with `stead.` is how the engine talks to itself."""

    def check(key: str) -> None:
        _some_key(key)
        if key.startswith("stead."):
            raise Mistake(f"annotation {key!r}: names that begin with stead. are the engine's own")

    return _read(value, check, "")


def sysctls(value: Any) -> dict[str, str]:
    """Names with dots; those that a container cannot have for itself are mistakes (sysctl(8))."""

    def check(key: str) -> None:
        if not re.fullmatch(r"[a-z0-9_-]+([./][A-Za-z0-9_-]+)+", key):
            raise Mistake(f"{key!r} is not a kernel setting")
        name = key.replace("/", ".")
        if not name.startswith(("net.", "fs.mqueue.")) and name not in NAMESPACED_KERNEL:
            raise Mistake(
                f"kernel setting {key!r} is the whole machine's: a container has net.*, fs.mqueue.*, "
                f"and of kernel.* {', '.join(name[7:] for name in NAMESPACED_KERNEL)}"
            )

    found = _read(value, check, "")
    for key, item in found.items():
        if not item:
            path: tuple[str, ...] = (key,) if isinstance(value, dict) else ()
            raise Mistake(f"kernel setting {key!r} has no value", path=path)
    return {key.replace("/", "."): item for key, item in found.items()}


def extra_hosts(value: Any) -> tuple[tuple[str, str], ...]:
    """`NAME=ADDRESS`, `NAME:ADDRESS` or a table; `host-gateway` stands for the host's address."""
    if isinstance(value, dict):
        items: list[tuple[str | int, Any]] = [
            (name, (name, one))
            for name, found in value.items()
            for one in (found if isinstance(found, list) else [found])
        ]
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        raise Mistake(f"write a table or a list, not {kind_of(value)}")
    out: list[tuple[str, str]] = []
    mistakes: list[Mistake] = []
    for path, item in items:
        try:
            out.append(_host(*(item if isinstance(item, tuple) else _split_host(item))))
        except ValueError as error:
            mistakes.append(Mistake(str(error), getattr(error, "hint", ""), (path,)))
    if mistakes:
        raise Mistakes(mistakes)
    return tuple(out)


def _split_host(item: Any) -> tuple[str, Any]:
    name, separator, rest = text(item).replace("=", ":", 1).partition(":")
    if not separator:
        raise Mistake(f"cannot read host {item!r}: write NAME:ADDRESS")
    return name, rest


def _host(name: str, found: Any) -> tuple[str, str]:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", name):
        raise Mistake(f"{name!r} is not a host name")
    where = text(found).strip("[]")
    return name, where if where == "host-gateway" else address(where)


# ---------------------------------------------------------------- types for pydantic fields

Environment = Annotated[dict[str, str | None], *shape(environment, _SCHEMA)]
StringMap = Annotated[dict[str, str], *shape(mapping, _SCHEMA)]
Sysctls = Annotated[dict[str, str], *shape(sysctls, _SCHEMA)]
ExtraHosts = Annotated[tuple[tuple[str, str], ...], *shape(extra_hosts, _HOSTS_SCHEMA)]
Annotations = Annotated[dict[str, str], *shape(own_annotations, _SCHEMA)]
