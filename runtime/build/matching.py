"""Decisions: whether a path matches a pattern, as Go's filepath.Match (COPY) and moby's patternmatcher do.

`*` and `?` match anything but a slash, `[a-z]` and `[^a-z]` one character, a backslash protects the next one.
Deep patterns (`.dockerignore`, --exclude, --parents) have `**` too, which stands for any number of
directories. Patterns are a stranger's: one with more than two wildcards is matched without backtracking, in
time of its length times the path's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, TypeAlias

from runtime.build.values import Value

#: Of one pattern, in characters.
MAX_PATTERN = 4096
#: Wildcards that a regular expression may have before it could take too long.
_FEW = 2


class PatternError(ValueError):
    """A pattern that is not one: a class without an end, a backslash before nothing."""


class CharacterClass(Value):
    """One character within (or, `negated`, outside of) the ranges."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def has(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) != self.negated


Wild = Literal["?", "*", "**", "**/"]


class Literally(Value):
    text: str


Token: TypeAlias = Literally | CharacterClass | Wild


class Pattern(Value):
    """A pattern that was read. `expression` is the regular expression of one with few wildcards, else None.

    `prefix` is its text up to the first thing that is not literal.
    """

    tokens: tuple[Token, ...]
    expression: str | None

    def matches(self, path: str) -> bool:
        if self.expression is not None:
            return regular(self.expression).fullmatch(path) is not None
        return _simulate(self.tokens, path)

    @property
    def prefix(self) -> str:
        first = self.tokens[0] if self.tokens else Literally("")
        return first.text if isinstance(first, Literally) else ""

    @property
    def literal(self) -> bool:
        return len(self.tokens) <= 1 and isinstance(
            self.tokens[0] if self.tokens else Literally(""), Literally
        )


def has_wildcards(text: str) -> bool:
    """Whether a COPY source is a pattern: it has `*`, `?` or `[` that no backslash protects."""
    return re.search(r"(?<!\\)(?:\\\\)*[*?\[]", text) is not None


def match(pattern: str, path: str) -> bool:
    """As filepath.Match of Go: the whole path. Raises PatternError."""
    return compiled(pattern, deep=False).matches(path)


@lru_cache(maxsize=1000)
def regular(expression: str) -> re.Pattern[str]:
    """Compiled when it is needed first, which for most lines of an ignore file is never."""
    return re.compile(expression, re.DOTALL)


@lru_cache(maxsize=1000)
def compiled(pattern: str, *, deep: bool) -> Pattern:
    """The pattern, `deep`: with `**`. Raises PatternError."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"a pattern has at most {MAX_PATTERN} characters")
    tokens = _joined(_tokens(pattern, deep))
    few = sum(isinstance(token, str) and token != "?" for token in tokens) <= _FEW
    return Pattern(tokens, _expression(tokens) if few else None)


# ---------------------------------------------------------------- reading


def _tokens(pattern: str, deep: bool) -> list[Token]:
    out: list[Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if deep and pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                at += 1
            out.append("**/" if at < len(pattern) else "**")
        elif char == "*" or char == "?":
            out.append("*" if char == "*" else "?")
            at += 1
        elif char == "[":
            found, at = _class(pattern, at)
            out.append(found)
        elif char == "\\":
            if at + 1 == len(pattern):
                raise PatternError(f"pattern {pattern!r} ends in a backslash")
            out.append(Literally(pattern[at + 1]))
            at += 2
        else:
            out.append(Literally(char))
            at += 1
    return out


def _class(pattern: str, at: int) -> tuple[CharacterClass, int]:
    """The class whose `[` is at `at`, and where it ends. It has at least one character or range."""
    at += 1
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while not ranges or not pattern.startswith("]", at):
        low, at = _class_character(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_character(pattern, at + 1)
        ranges.append((low, high))
    return CharacterClass(tuple(ranges), negated), at + 1


def _class_character(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at : at + 1]
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
    elif char in ("-", "]"):
        char = ""
    if not char or at + 1 == len(pattern):
        raise PatternError(f"pattern {pattern!r} has a character class that is not closed or empty")
    return char, at + 1


def _joined(tokens: list[Token]) -> tuple[Token, ...]:
    """Characters put together, and wildcards that say no more than the one before left out."""
    out: list[Token] = []
    for token in tokens:
        last = out[-1] if out else None
        if isinstance(token, Literally) and isinstance(last, Literally):
            out[-1] = Literally(last.text + token.text)
        elif not (token == last and token in ("*", "**/")):
            out.append(token)
    return tuple(out)


# ---------------------------------------------------------------- matching

_EXPRESSIONS = {"?": "[^/]", "*": "[^/]*", "**": ".*", "**/": "(?:.*/)?"}


def _expression(tokens: tuple[Token, ...]) -> str:
    out = []
    for token in tokens:
        if isinstance(token, Literally):
            out.append(re.escape(token.text))
        elif isinstance(token, CharacterClass):
            ranges = "".join(f"{_escaped(low)}-{_escaped(high)}" for low, high in token.ranges if low <= high)
            out.append(f"[{'^' if token.negated else ''}{ranges}]" if ranges else _nothing(token))
        else:
            out.append(_EXPRESSIONS[token])
    return "".join(out)


def _nothing(token: CharacterClass) -> str:
    return "." if token.negated else "(?!)"


def _escaped(char: str) -> str:
    return "\\" + char if char in r"\]^-[&~|" else char


def _simulate(tokens: tuple[Token, ...], path: str) -> bool:
    """All the places that can be reached, as the bits of a number, token by token."""
    end = 1 << len(path)
    slashes = _where(path, lambda char: char == "/")
    others = (end - 1) & ~slashes
    reached = 1
    for token in tokens:
        if isinstance(token, Literally):
            for wanted in token.text:
                reached = (reached & _where(path, wanted.__eq__)) << 1
        elif isinstance(token, CharacterClass):
            reached = (reached & _where(path, token.has)) << 1
        elif token == "?":
            reached = (reached & others) << 1
        elif token == "*":  # on through every run of others: the carry of an addition goes through it
            reached |= ((reached & others) + others) ^ others
        else:
            onward = (end * 2 - 1) & ~((reached & -reached) - 1)
            reached |= onward if token == "**" else (onward & slashes) << 1
        if not reached:
            return False
    return bool(reached & end)


def _where(path: str, wanted: object) -> int:
    """The bits of the characters that `wanted` says yes to."""
    assert callable(wanted)
    return sum(1 << at for at, char in enumerate(path) if wanted(char))
