"""Decisions: the value of `RUN --mount=` -> what is to be mounted.

Source: Dockerfile reference, "RUN --mount".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from typing import Literal, get_args

from runtime.build.problems import nearest
from runtime.build.values import Value, replace

MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]

_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
#: Keys that take no value, or a Go boolean.
_SWITCHES = frozenset({"readonly", "readwrite", "required"})
_KEYS = ("type", "from", "source", "target", "id", "sharing", "size", "mode", "uid", "gid", "env", *_SWITCHES)
_YES = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_NO = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_SIZE = re.compile(r"(\d{1,15})(?:\.\d+)? ?([kmgtp]?)i?b?\Z", re.IGNORECASE)
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "size": ("tmpfs",),
    "required": ("secret", "ssh"),
    "sharing": ("cache",),
    "env": ("secret",),
    "mode": ("secret", "ssh", "cache"),
    "uid": ("secret", "ssh", "cache"),
    "gid": ("secret", "ssh", "cache"),
    "id": ("secret", "ssh", "cache"),
}


class MountError(ValueError):
    """The value of a `--mount` means nothing. `hint`: what was probably meant."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class RunMount(Value):
    """One mount of a RUN.

    `from_`: stage, image or context, "" is the build context (bind) or nothing (cache). `target` may be
    relative to WORKDIR; "" for a secret that is only `env`. `size` in bytes, 0: no limit of its own.
    `id`: of the cache (default: its target), secret or agent. `mode`: permission bits of the directory
    of a cache, of the file of a secret or socket. `read_only` of a bind: otherwise what is written is lost.
    """

    type: MountType = "bind"
    from_: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = True
    required: bool = False
    size: int = 0
    id: str = ""
    sharing: Sharing = "shared"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    env: str = ""


def from_of(value: str) -> str:
    """The `from=` of a mount, which no variable may be in: the stages that a stage needs depend on it.

    Raises MountError.
    """
    found = ""
    for key, given in _fields(value):
        if key == "from":
            found = given or ""
    if re.search(r"\$.", found):
        raise MountError("no variable can be in from=", "name a stage with FROM ... AS and use the name")
    return found


def read_mount(value: str, expand: Callable[[str], str] = str) -> RunMount:
    """The mount that `value` describes, each field's value given to `expand`. Raises MountError."""
    given: dict[str, str | None] = {}
    for key, text in _fields(value):
        if key not in _KEYS:
            raise MountError(f"unknown key {key!r} in --mount", nearest(key, (*_KEYS, *_ALIASES)))
        if text is None and key not in _SWITCHES:
            raise MountError(f"{key!r} in --mount has no value", f"write {key}=VALUE")
        given[key] = text if text is None or key == "from" else expand(text)
    kind = _one_of("type", (given.get("type") or "bind").lower(), get_args(MountType))
    for key in given:
        if kind not in _ONLY_FOR.get(key, (kind,)):
            raise MountError(f"{key!r} is not for mounts of type {kind}")
    mount = RunMount(
        type=kind,  # type: ignore[arg-type]
        from_=from_of(value),
        source=given.get("source") or "",
        target=given.get("target") or "",
        read_only=_read_only(given, kind),
        required=_switch(given, "required", False),
        size=_size(given.get("size") or "0"),
        id=given.get("id") or "",
        sharing=_one_of("sharing", (given.get("sharing") or "shared").lower(), get_args(Sharing)),  # type: ignore[arg-type]
        mode=_number(given, "mode", 8, {"secret": 0o400, "ssh": 0o600}.get(kind, 0o755)),
        uid=_number(given, "uid", 10, 0),
        gid=_number(given, "gid", 10, 0),
        env=given.get("env") or "",
    )
    return _completed(mount)


def _completed(mount: RunMount) -> RunMount:
    """With the defaults that follow from other fields. Raises MountError where they contradict each other."""
    if mount.type == "secret":
        return _secret(mount)
    if mount.type == "ssh":
        if mount.from_ or mount.source:
            raise MountError("an ssh mount has no from and no source")
        return replace(mount, id=mount.id or "default")
    if mount.type == "tmpfs" and (mount.from_ or mount.source):
        raise MountError("a tmpfs mount has no from and no source")
    if mount.type in ("cache", "tmpfs") and not mount.target:
        raise MountError(f"a {mount.type} mount needs a target", "write target=/PATH")
    return mount


def _secret(mount: RunMount) -> RunMount:
    if mount.from_:
        raise MountError("a secret mount has no from")
    if mount.source and mount.id:
        raise MountError("a secret mount has a source or an id, not both")
    name = mount.id or mount.source or mount.target.rstrip("/").rpartition("/")[2]
    if not name:
        raise MountError("a secret mount needs an id or a target", "write id=NAME")
    target = mount.target or ("" if mount.env else "/run/secrets/" + name.rpartition("/")[2])
    return replace(mount, id=name, source="", target=target)


def _fields(value: str) -> list[tuple[str, str | None]]:
    try:
        rows = list(csv.reader([value], strict=True))
    except csv.Error as error:
        raise MountError(f"--mount cannot be read: {error}") from None
    fields = rows[0] if rows else []
    out: list[tuple[str, str | None]] = []
    for part in fields:
        key, equals, text = part.partition("=")
        key = key.lower()
        out.append((_ALIASES.get(key, key), text if equals else None))
    return out


def _one_of(key: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise MountError(f"{key} is {', '.join(known)}, not {value!r}", nearest(value, known))
    return value


def _switch(given: dict[str, str | None], key: str, default: bool) -> bool:
    if key not in given:
        return default
    value = given[key]
    if value is None or value in _YES:
        return True
    if value in _NO:
        return False
    raise MountError(f"{key} is true or false, not {value!r}")


def _read_only(given: dict[str, str | None], kind: str) -> bool:
    read_only = kind not in ("cache", "tmpfs")
    for key in given:  # the last one counts
        if key == "readonly":
            read_only = _switch(given, key, True)
        elif key == "readwrite":
            read_only = not _switch(given, key, True)
    return read_only


def _number(given: dict[str, str | None], key: str, base: int, default: int) -> int:
    if key not in given:
        return default
    value = given[key] or ""
    try:
        number = int(value, base) if value.isascii() and value.isdecimal() and len(value) < 20 else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 32 or (key == "mode" and number > 0o7777):
        raise MountError(
            f"{value!r} is no {key}", "write it in octal digits" if base == 8 else "write a number"
        )
    return number


def _size(value: str) -> int:
    match = _SIZE.match(value)
    if match is None:
        raise MountError(f"{value!r} is not a size", "write 64m or 1g")
    digits = value[: match.start(2)].strip() if match[2] else re.split("[^0-9.]", value)[0]
    return int(float(digits) * 1024 ** ("kmgtp".index(match[2].lower()) + 1 if match[2] else 0))
