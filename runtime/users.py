"""Decisions: who a container runs as, from the text of the image's own /etc/passwd and /etc/group
(passwd(5), group(5)).

Docker's rules: `name`, `uid`, `name:group`, `uid:gid`; a number needs no entry; a name does. Supplementary
groups come from /etc/group only when no group was given; `group_add` is added in any case. Both files are a
stranger's: a number is a number even where somebody is called so (CVE-2016-3697), and a line whose ids do not
fit is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from runtime.bundle import User
from runtime.faults import Fault

_MAX_ID = 2**32 - 2  # the last one means "leave it as it is": chown(2)
_DIGITS = re.compile(r"[0-9]{1,10}\Z")


def find_user(spec: str, group_add: Sequence[str], passwd: str, group: str) -> User:
    """Raises Fault request-invalid for a name that the image does not know, or a number out of range."""
    who, _, which = spec.partition(":")
    uid, gid, name, home = 0, 0, "", "/"
    entries = list(_entries(passwd, 7))
    wanted = who or "0"
    number = _number(wanted) if wanted.isdecimal() and wanted.isascii() else None
    for entry in entries:
        if (entry[0] == wanted) if number is None else (int(entry[2]) == number):
            uid, gid, name, home = int(entry[2]), int(entry[3]), entry[0], entry[5] or "/"
            break
    else:
        if number is None:
            raise _unknown("user", wanted)
        uid = number
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
    if text.isdecimal() and text.isascii():
        return _number(text)
    if text not in groups:
        raise _unknown("group", text)
    return groups[text]


def _number(text: str) -> int:
    if not _fits(text):
        raise Fault("request-invalid", "find user", text[:20], f"ids end at {_MAX_ID}")
    return int(text)


def _fits(text: str) -> bool:
    return bool(_DIGITS.match(text)) and int(text) <= _MAX_ID


def _unknown(kind: str, name: str) -> Fault:
    return Fault(
        "request-invalid", f"find {kind}", name, f"the image's /etc has no such {kind}", "give a number"
    )


def _entries(text: str, count: int) -> Iterator[list[str]]:
    """The well-formed lines of a colon-separated file; others are skipped, as libc does. Only a newline ends
    one."""
    for line in text.split("\n"):
        parts = line.strip().split(":")
        if len(parts) >= count and _fits(parts[2]) and (count == 4 or _fits(parts[3])):
            yield parts
