"""Decisions: the command line of runc, as engines call it: global options, a command, its options, its words.

Options may follow a command's words, as Go's cli package has it, but not where these are a program's; `--name
value`, `--name=value`, `-n value`.
"""

from __future__ import annotations

from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Options = Mapping[str, str]

#: The default of --root.
ROOT = "/run/stead-oci"
FLAG, TEXT, NUMBER, SIZE, LIST = "flag", "text", "number", "size", "list"

GLOBAL = {
    "debug": FLAG,
    "log": TEXT,
    "log-format": TEXT,
    "root": TEXT,
    "systemd-cgroup": FLAG,
    "cgroup-manager": TEXT,
    "rootless": TEXT,
    "criu": TEXT,
    "help": FLAG,
    "version": FLAG,
}
_START = {
    "bundle": TEXT,
    "console-socket": TEXT,
    "pid-file": TEXT,
    "no-pivot": FLAG,
    "no-new-keyring": FLAG,
    "preserve-fds": NUMBER,
}
_FORMAT = {"format": TEXT}
COMMANDS: dict[str, dict[str, str]] = {
    "create": _START,
    "run": {**_START, "detach": FLAG, "keep": FLAG, "no-subreaper": FLAG},
    "start": {},
    "state": {},
    "kill": {"all": FLAG},
    "delete": {"force": FLAG},
    "exec": {
        "console-socket": TEXT,
        "cwd": TEXT,
        "env": LIST,
        "tty": FLAG,
        "user": TEXT,
        "additional-gids": LIST,
        "process": TEXT,
        "detach": FLAG,
        "pid-file": TEXT,
        "process-label": TEXT,
        "apparmor": TEXT,
        "no-new-privs": FLAG,
        "cap": LIST,
        "preserve-fds": NUMBER,
        "cgroup": LIST,
        "ignore-paused": FLAG,
    },
    "list": {**_FORMAT, "quiet": FLAG},
    "ps": _FORMAT,
    "pause": {},
    "resume": {},
    "update": {
        "resources": TEXT,
        "blkio-weight": NUMBER,
        "cpu-period": NUMBER,
        "cpu-quota": NUMBER,
        "cpu-burst": NUMBER,
        "cpu-share": NUMBER,
        "cpu-rt-period": NUMBER,
        "cpu-rt-runtime": NUMBER,
        "cpuset-cpus": TEXT,
        "cpuset-mems": TEXT,
        "memory": SIZE,
        "memory-reservation": SIZE,
        "memory-swap": SIZE,
        "pids-limit": NUMBER,
        "cpu-idle": NUMBER,
        "l3-cache-schema": TEXT,
        "mem-bw-schema": TEXT,
    },
    "events": {"interval": TEXT, "stats": FLAG},
    "spec": {"bundle": TEXT, "rootless": FLAG},
    "features": {},
}
_SHORT = {
    "b": "bundle",
    "d": "detach",
    "a": "all",
    "f": "force",
    "e": "env",
    "t": "tty",
    "u": "user",
    "g": "additional-gids",
    "p": "process",
    "c": "cap",
    "q": "quiet",
    "r": "resources",
    "h": "help",
    "v": "version",
}
#: command -> (fewest, most) words; -1: any number
WORDS = {
    "create": (1, 1),
    "run": (1, 1),
    "start": (1, 1),
    "state": (1, 1),
    "kill": (1, 2),
    "delete": (1, 1),
    "exec": (1, -1),
    "list": (0, 0),
    "ps": (1, -1),
    "pause": (1, 1),
    "resume": (1, 1),
    "update": (1, 1),
    "events": (1, 1),
    "spec": (0, 0),
    "features": (0, 0),
}


class Call:
    """What is asked for: `command` is empty for `--help` and `--version` alone."""

    __slots__ = ("command", "general", "options", "words")

    def __init__(
        self, general: dict[str, Any], command: str, options: dict[str, Any], words: list[str]
    ) -> None:
        self.general, self.command, self.options, self.words = general, command, options, words


def parse(arguments: Sequence[str]) -> Call:
    """OciFailure for what no command takes."""
    general, rest = _options(list(arguments), GLOBAL, "")
    if not rest:
        if not general.get("version"):
            general["help"] = True
        return Call(general, "", {}, [])
    command, *rest = rest
    if command in ("help", "checkpoint", "restore"):
        if command == "help":
            return Call({**general, "help": True}, "", {}, [])
        raise OciFailure(f"cannot {command} a container: this runtime does not use CRIU")
    if command not in COMMANDS:
        raise OciFailure(f"cannot run {command}: no such command; see stead oci --help")
    options, words = _options(rest, COMMANDS[command], command, mixed=WORDS[command][1] >= 0)
    if options.get("help"):
        return Call({**general, "help": True}, command, {}, [])
    fewest, most = WORDS[command]
    if len(words) < fewest or (0 <= most < len(words)):
        wanted = (
            f"{fewest}" if fewest == most else f"at least {fewest}" if most < 0 else f"{fewest} to {most}"
        )
        raise OciFailure(f"cannot {command}: it takes {wanted} arguments, and {len(words)} were given")
    return Call(general, command, options, words)


def _options(
    words: list[str], known: Options, command: str, *, mixed: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The options, and the words behind them; with `mixed` those between them, too."""
    found: dict[str, Any] = {}
    plain: list[str] = []
    while words and (mixed or _is_option(words[0])):
        word = words.pop(0)
        if not _is_option(word):
            plain.append(word)
            continue
        if word == "--":
            break
        name, given, value = word.lstrip("-").partition("=")
        if not word.startswith("--") or len(name) == 1:
            name = "format" if name == "f" and "format" in known else _SHORT.get(name, name)
        kind = FLAG if name == "help" else known.get(name)
        if kind is None:
            raise OciFailure(f"cannot {command or 'start'}: unknown option {word}")
        if kind == FLAG:
            found[name] = value.lower() not in ("false", "0") if given else True
            continue
        if not given:
            if not words:
                raise OciFailure(f"cannot {command or 'start'}: option {word} needs a value")
            value = words.pop(0)
        if kind == LIST:
            found.setdefault(name, []).append(value)
        else:
            found[name] = {NUMBER: _number, SIZE: _size}.get(kind, _text)(word, value)
    return found, [*plain, *words]


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _text(word: str, text: str) -> str:
    return text


def _size(word: str, text: str) -> int:
    """Bytes, as runc reads them: "64m", "64MiB", "1.5g"; -1 is no limit."""
    digits = text.strip().lower().removesuffix("b").removesuffix("i").rstrip()
    unit = "kmgtp".find(digits[-1:]) + 1 if digits else 0
    try:
        size = float(digits[:-1]) * 1024**unit if unit else int(digits)
    except ValueError:
        size = -2
    if size != -1 and not 0 <= size < 1 << 63:
        raise OciFailure(f"cannot read option {word}: {text!r} is no size, such as 64m")
    return int(size)


def _number(word: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise OciFailure(f"cannot read option {word}: {text!r} is no number") from None
