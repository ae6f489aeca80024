"""Decisions: what a shell pattern of `*` and `?` matches in a value (POSIX XCU 2.14 without brackets).

The patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/replacement}` come from a stranger's
file: a pattern is cut at its stars into pieces without any, which are looked for one after the other, so
that no pattern takes more than length of value times length of pattern.
"""

from __future__ import annotations

import re

from runtime.build.values import Value


class PatternError(ValueError):
    """A backslash in the pattern stands before a character that needs none."""


class Glob(Value):
    """The pieces between the stars of a pattern; one piece: no star."""

    pieces: tuple[re.Pattern[str], ...]
    backwards: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, pattern: str) -> Glob:
        """`\\*`, `\\?` and `\\\\` are the characters themselves, `\\}` and `\\/` lose their backslash."""
        pieces: list[list[str]] = [[]]
        at = 0
        while at < len(pattern):
            char = pattern[at]
            at += 1
            if char == "*":
                pieces.append([])
            elif char == "?":
                pieces[-1].append(".")
            elif char == "\\":
                after = pattern[at : at + 1]
                if after not in ("*", "?", "\\", "}", "/"):
                    raise PatternError(f"invalid escape '\\{after}' in pattern {pattern!r}")
                pieces[-1].append(re.escape(after))
                at += 1
            else:
                pieces[-1].append(re.escape(char))
        return cls(
            tuple(re.compile("".join(piece), re.DOTALL) for piece in pieces),
            tuple(re.compile("".join(reversed(piece)), re.DOTALL) for piece in reversed(pieces)),
        )

    def without_prefix(self, value: str, longest: bool) -> str:
        """`${value#pattern}`, or `${value##pattern}` when `longest`."""
        end = _end(self.pieces, self.backwards, value, 0, longest)
        return value if end is None else value[end:]

    def without_suffix(self, value: str, longest: bool) -> str:
        """`${value%pattern}`, or `${value%%pattern}` when `longest`."""
        end = _end(self.backwards, self.pieces, value[::-1], 0, longest)
        return value if end is None else value[: len(value) - end]

    def replaced(self, value: str, replacement: str, every: bool) -> str:
        """The leftmost longest match replaced, or each one of them; an empty match is none."""
        out: list[str] = []
        at = kept = 0
        while at <= len(value):
            first = self.pieces[0].search(value, at)
            if first is None:
                break
            end = _end(self.pieces, self.backwards, value, first.start(), longest=True)
            if end is None:  # what follows a star is not in the rest: later starts miss it as well
                break
            if end == first.start():
                at = end + 1
                continue
            out += [value[kept : first.start()], replacement]
            at = kept = end
            if not every:
                break
        return "".join(out) + value[kept:]


def _end(
    pieces: tuple[re.Pattern[str], ...],
    backwards: tuple[re.Pattern[str], ...],
    value: str,
    start: int,
    longest: bool,
) -> int | None:
    """Where the match that begins at `start` ends, None: there is none."""
    found = pieces[0].match(value, start)
    if found is None:
        return None
    at = found.end()
    for piece in pieces[1:-1]:
        if (found := piece.search(value, at)) is None:
            return None
        at = found.end()
    if len(pieces) == 1:
        return at
    if not longest:
        found = pieces[-1].search(value, at)
        return None if found is None else found.end()
    reverse = value[at:][::-1]
    found = backwards[0].search(reverse)
    return None if found is None else len(value) - found.start()
