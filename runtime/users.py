"""Decisions: who a container runs as, from the text of the image's own /etc/passwd and /etc/group
(passwd(5), group(5)).

Docker's rules: `name`, `uid`, `name:group`, `uid:gid`; a number needs no entry; a name does. Supplementary
groups come from
/etc/group only when no group was given; `group_add` is added in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runtime.bundle import User
from runtime.faults import Fault

_MAX_ID = 2**32 - 2


def find_user(spec: str, group_add: Sequence[str], passwd: str, group: str) -> User:
    """Raises Fault request-invalid for a name that the image does not know, or a number out of range."""
    who, _, which = spec.partition(":")
    uid, gid, name, home = 0, 0, "", "/"
    entries = list(_entries(passwd, 7))
    wanted = who or "0"
    for entry in entries:
        if entry[0] == wanted or (wanted.isdigit() and entry[2] == wanted):
            uid, gid, name, home = int(entry[2]), int(entry[3]), entry[0], entry[5] or "/"
            break
    else:
        if not wanted.isdigit():
            raise _unknown("user", wanted)
        uid = _number(wanted)
    groups = {entry[0]: int(entry[2]) for entry in _entries(group, 4)}
    supplementary: list[int] = []
    if which:
        gid = _group(which, groups)
    elif name:
        members = (entry for entry in _entries(group, 4) if name in entry[3].split(","))
        supplementary = [int(entry[2]) for entry in members if int(entry[2]) != gid]
    supplementary += [_group(item, groups) for item in group_add]
    return User(uid, gid, tuple(dict.fromkeys(supplementary)), home)


def _group(text: str, groups: dict[str, int]) -> int:
    if text in groups:
        return groups[text]
    if not text.isdigit():
        raise _unknown("group", text)
    return _number(text)


def _number(text: str) -> int:
    value = int(text)
    if value > _MAX_ID:
        raise Fault("request-invalid", "find user", text, f"ids end at {_MAX_ID}")
    return value


def _unknown(kind: str, name: str) -> Fault:
    return Fault(
        "request-invalid", f"find {kind}", name, f"the image's /etc has no such {kind}", "give a number"
    )


def _entries(text: str, count: int) -> Iterator[list[str]]:
    """The well-formed lines of a colon-separated file; others are skipped, as libc does."""
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) >= count and parts[2].isdigit() and (count == 4 or parts[3].isdigit()):
            yield parts
