"""Decisions: the `--name=value` words between an instruction's keyword and its arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

from runtime.build.problems import nearest
from runtime.build.values import Value

Kind = Literal["text", "yes-no", "texts"]

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3600_000_000_000,
}
_PART = r"(\d*)(?:\.(\d*))?(" + "|".join(sorted(_UNITS, key=len, reverse=True)) + ")"
_MOST_NANOSECONDS = (1 << 63) - 1
_LEAST_NANOSECONDS = 1_000_000  # what an engine accepts between two probes


class Wrong(Exception):
    """Something in an instruction, `offset` characters into its logical line, cannot be."""

    def __init__(self, text: str, offset: int, hint: str = "") -> None:
        super().__init__(text, offset, hint)
        self.text, self.offset, self.hint = text, offset, hint


class Flag(Value):
    """`value` None: written without `=`."""

    name: str
    value: str | None
    offset: int


class Flags(Value):
    """The flags of one instruction by name; of those that may be repeated all, of others one."""

    given: Mapping[str, tuple[Flag, ...]]

    def text(self, name: str) -> str:
        flags = self.given.get(name)
        return flags[0].value or "" if flags else ""

    def yes(self, name: str) -> bool:
        return self.yes_or_none(name) or False

    def yes_or_none(self, name: str) -> bool | None:
        """Whether the flag is set or unset, None: it is not written at all."""
        flags = self.given.get(name)
        return None if not flags else flags[0].value is None or flags[0].value.lower() == "true"

    def all(self, name: str) -> tuple[Flag, ...]:
        return self.given.get(name, ())

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        """The flag's value, the first of `known` when it is not written. Raises Wrong for any other."""
        if name not in self.given:
            return known[0]
        flag = self.given[name][0]
        if flag.value not in known:
            raise Wrong(f"--{name} is {', '.join(known)}, not {flag.value!r}", flag.offset)
        return flag.value or ""

    def duration(self, name: str) -> int:
        """Nanoseconds, 0 when it is not written. Raises Wrong."""
        if not (value := self.text(name)):
            return 0
        offset = self.given[name][0].offset
        try:
            found = duration(value)
        except ValueError as error:
            raise Wrong(f"--{name}: {error}", offset) from None
        if found and found < _LEAST_NANOSECONDS:
            raise Wrong(f"--{name} is 0 or at least 1ms, not {value!r}", offset)
        return found


def take(text: str, at: int, escape: str) -> tuple[list[Flag], int]:
    """The words from `at` on that begin with `--`, and where what follows them begins. `--` ends them.

    Quotes group and are taken away, the escape character protects the next one.
    """
    flags: list[Flag] = []
    while True:
        at = _blanks(text, at)
        if not text.startswith("--", at):
            return flags, at
        start = at
        word, at = _word(text, at, escape)
        if word == "--":
            return flags, _blanks(text, at)
        name, equals, value = word[2:].partition("=")
        flags.append(Flag(name, value if equals else None, start))


def _blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _word(text: str, at: int, escape: str) -> tuple[str, int]:
    out: list[str] = []
    quote = ""
    while at < len(text) and (quote or not text[at].isspace()):
        char = text[at]
        at += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == escape:
            out.append(text[at : at + 1])
            at += 1
        else:
            out.append(char)
    return "".join(out), at


def check(
    found: list[Flag], known: Mapping[str, Kind], keyword: str, report: Callable[[Wrong], None]
) -> Flags:
    """The flags that `known` allows; each other one, one without its value or given twice is reported."""
    given: dict[str, list[Flag]] = {}
    for flag in found:
        kind = known.get(flag.name)
        if kind is None:
            hint = nearest(flag.name, known) or _instead(known, keyword)
            report(Wrong(f"unknown flag --{flag.name} for {keyword}", flag.offset, hint))
        elif flag.name in given and kind != "texts":
            report(Wrong(f"--{flag.name} is given twice", flag.offset))
        elif kind == "yes-no" and flag.value is not None and flag.value.lower() not in ("true", "false"):
            report(Wrong(f"--{flag.name} is true or false, not {flag.value!r}", flag.offset))
        elif kind != "yes-no" and not flag.value:
            report(Wrong(f"--{flag.name} has no value", flag.offset, f"write --{flag.name}=VALUE"))
        else:
            given.setdefault(flag.name, []).append(flag)
    return Flags({name: tuple(flags) for name, flags in given.items()})


def _instead(known: Mapping[str, Kind], keyword: str) -> str:
    if not known:
        return f"{keyword} takes no flags"
    return f"{keyword} takes " + ", ".join(f"--{name}" for name in known)


def duration(text: str) -> int:
    """`1m30s`, `1.5h`, `0` in nanoseconds (Go time.ParseDuration, without a sign). Raises ValueError."""
    if text == "0":
        return 0
    total, at = 0, 0
    while at < len(text):
        match = re.compile(_PART).match(text, at)
        if match is None or not (match[1] or match[2]) or match.end() - at > 40:
            raise ValueError(f"{text!r} is not a duration (write 30s, 1m30s, 500ms)")
        unit = _UNITS[match[3]]
        fraction = match[2] or ""
        total += int(match[1] or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        at = match.end()
    if not text or total > _MOST_NANOSECONDS:
        raise ValueError(f"{text!r} is not a duration (write 30s, 1m30s, 500ms)")
    return total
