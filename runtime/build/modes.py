"""Decisions: the words of --chmod: octal digits, or symbolic changes as chmod(1) has them."""

from __future__ import annotations

import re
from collections.abc import Callable

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]*)")
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007}
_ALL = 0o7777

#: (mode bits before, whether it is a directory) -> mode bits after
ModeChange = Callable[[int, bool], int]


def parse_mode(text: str) -> ModeChange:
    """ValueError when it is neither octal digits up to 7777 nor symbolic."""
    if re.fullmatch("[0-7]{1,4}", text):
        number = int(text, 8)
        return lambda _before, _is_dir: number
    clauses = []
    for clause in text.split(","):
        found = _CLAUSE.match(clause)
        if found is None:
            raise ValueError(f"invalid mode {text!r}: write octal digits (0755) or changes (u+x,go-w)")
        clauses.append((found[1] or "a", _ACTION.findall(found[2])))

    def change(before: int, is_dir: bool) -> int:
        mode = before
        for who, actions in clauses:
            for sign, letters in actions:
                mode = _apply(mode, is_dir, who, sign, letters)
        return mode

    return change


def _apply(mode: int, is_dir: bool, who: str, sign: str, letters: str) -> int:
    mask = _ALL if "a" in who else sum(_WHO[letter] for letter in dict.fromkeys(who))
    bits = 0
    for letter in letters:
        if letter == "X":
            bits |= 0o111 if is_dir or mode & 0o111 else 0
        else:
            bits |= {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}[letter]
    bits &= mask
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    # chmod(1): a directory keeps its set-ID bits unless they are named
    cleared = mask & ~0o6000 if is_dir and "s" not in letters else mask
    return (mode & ~cleared) | bits
