"""Decisions: who owns what COPY --chown and WORKDIR make, from the text of the image's own passwd and group.

Dockerfile reference, "COPY --chown": names are looked up in the image; a number needs no entry, and is its
own group unless one is given; a name's group is that of its entry.
"""

from __future__ import annotations

_MAX_ID = 2**32 - 2


def find_owner(text: str, passwd: str, group: str) -> tuple[int, int]:
    """(uid, gid) of `user`, `user:group`, `:group`. ValueError for a name that the image does not have."""
    user, colon, given = text.partition(":")
    uid = gid = 0
    if user.isdecimal():
        uid = gid = _number(user)
    elif user:
        entry = _entry(passwd, user, 4)
        if entry is None:
            raise ValueError(f"the image's /etc/passwd has no user {user!r}")
        uid, gid = int(entry[2]), int(entry[3])
    if colon and given:
        if given.isdecimal():
            gid = _number(given)
        else:
            found = _entry(group, given, 3)
            if found is None:
                raise ValueError(f"the image's /etc/group has no group {given!r}")
            gid = int(found[2])
    return uid, gid


def _number(text: str) -> int:
    value = int(text[:20])
    if value > _MAX_ID:
        raise ValueError(f"{text[:20]} is no id: they end at {_MAX_ID}")
    return value


def _entry(text: str, name: str, fields: int) -> list[str] | None:
    for line in text.splitlines():
        parts = line.strip().split(":")
        if len(parts) >= fields and parts[0] == name and all(part.isdecimal() for part in parts[2:fields]):
            return parts
    return None
