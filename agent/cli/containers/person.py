"""Effects: who types: the account, before sudo, and the terminal."""

from __future__ import annotations

import os


def who() -> str:
    """A name where the account has one."""
    if name := os.environ.get("SUDO_USER"):
        return name
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def terminal() -> str:
    """Such as pts/3; empty where none of the standard streams is one."""
    for fd in (0, 2, 1):
        try:
            return os.ttyname(fd).removeprefix("/dev/")
        except OSError:
            continue
    return ""
