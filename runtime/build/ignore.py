"""Decisions: which files of a context the builder does not see: the lines of `.dockerignore`.

Source: docs.docker.com/build/concepts/context, ".dockerignore files"; moby/patternmatcher. A pattern
matches a path from the context's root, and with a directory all that is in it; the last line that matches
decides; `!` takes back in, also below a directory that is left out.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from runtime.build.matching import Pattern, PatternError, compiled
from runtime.build.values import Value

MAX_BYTES = 1024 * 1024  # of an ignore file
MAX_PATTERNS = 10_000
_REMEMBERED = 50_000  # directories
_QUICK = 200  # rules that are looked at together


class IgnoreError(ValueError):
    """A line of an ignore file that is no pattern. `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")
        self.line, self.text = line, text


class _Rule(Value):
    pattern: Pattern
    text: str
    back_in: bool
    suffix: str = ""  # of a pattern `**suffix`: any path that ends so

    def matches(self, path: str) -> bool:
        if self.suffix:
            return path.endswith(self.suffix) or (path == self.suffix[1:] and self.suffix[0] == "/")
        return self.pattern.matches(path)

    @property
    def expression(self) -> str | None:
        """A regular expression of the paths that match, None when there is none that is quick."""
        if not self.suffix:
            return self.pattern.expression
        within = "(?:.*/)?" if self.suffix[0] == "/" else ".*"
        return within + re.escape(self.suffix.removeprefix("/"))

    def may_match_below(self, directory: str) -> bool:
        """Whether the rule can match a path in `directory`."""
        fixed = self.pattern.prefix if not self.suffix else ""
        if self.pattern.literal:
            fixed += "/"
        return fixed.startswith(directory + "/") or (directory + "/").startswith(fixed)


class Ignore:
    """The rules of one file, in order. Paths are relative to the context, with slashes, without `./`.

    What was found of directories is remembered; it says the same whoever asks, and when.
    """

    __slots__ = ("_any", "_directories", "_none", "rules")

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self.rules = rules
        self._none = (False,) * len(rules)
        self._any = _any(rules)
        self._directories = {"": self._none}

    @classmethod
    def parse(cls, text: str | bytes) -> Ignore:
        """The rules of an ignore file. Raises IgnoreError."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "surrogateescape")
        if len(text) > MAX_BYTES:
            raise IgnoreError(1, f"an ignore file has at most {MAX_BYTES} bytes")
        lines = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").split("\n")
        return cls(tuple(_rules((n, line) for n, line in enumerate(lines, 1) if not line.startswith("#"))))

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Ignore:
        """The rules that the patterns of COPY --exclude are; `#` is nothing special. Raises IgnoreError."""
        return cls(tuple(_rules(enumerate(patterns, 1))))

    def excludes(self, path: str, is_dir: bool = False) -> bool:
        """Whether the builder does not see `path`. A directory that is left out is there all the same when
        something in it is not; see `may_descend`. `is_dir` makes no difference: a pattern never asks."""
        excluded = False
        for rule, matched in zip(self.rules, self._matched(path), strict=True):
            if matched:
                excluded = not rule.back_in
        return excluded

    def may_descend(self, directory: str) -> bool:
        """Whether something in `directory` ("" is the root) can be seen."""
        if not directory or not self.excludes(directory, True):
            return True
        return any(rule.back_in and rule.may_match_below(directory) for rule in self.rules)

    def _matched(self, path: str) -> tuple[bool, ...]:
        """Of each rule, whether it matches the path or a directory above it."""
        above = path.rpartition("/")[0]
        before = self._directories.get(above)
        if before is None:
            before = self._none
            for end in (*(at for at, char in enumerate(above) if char == "/"), len(above)):
                before = self._with(before, above[:end])
                if len(self._directories) >= _REMEMBERED:
                    self._directories = {"": self._none}
                self._directories[above[:end]] = before
        return self._with(before, path)

    def _with(self, before: tuple[bool, ...], path: str) -> tuple[bool, ...]:
        """What matches `path` when `before` matched above it. Most paths are matched by nothing: one look."""
        if before is self._none and self._any is not None and self._any.fullmatch(path) is None:
            return before
        found = tuple(was or rule.matches(path) for was, rule in zip(before, self.rules, strict=True))
        return found if any(found) else self._none


def _any(rules: tuple[_Rule, ...]) -> re.Pattern[str] | None:
    """What matches whatever one of the rules does; None where that is no quick look."""
    expressions = [rule.expression for rule in rules]
    if len(rules) > _QUICK or None in expressions:
        return None
    return re.compile("|".join(filter(None, expressions)) or "(?!)", re.DOTALL)


def _rules(lines: Iterable[tuple[int, str]]) -> Iterable[_Rule]:
    count = 0
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        back_in = text.startswith("!")
        if back_in and not (text := text[1:].strip()):
            raise IgnoreError(number, "'!' stands alone: a pattern must follow")
        text = _cleaned(text)
        count += 1
        if count > MAX_PATTERNS:
            raise IgnoreError(number, f"an ignore file has at most {MAX_PATTERNS} patterns")
        try:
            pattern = compiled(text, deep=True)
        except PatternError as error:
            raise IgnoreError(number, str(error)) from None
        yield _Rule(pattern, text, back_in, _suffix(text))


def _cleaned(pattern: str) -> str:
    """As filepath.Clean, without a slash at the beginning: `./a//b/` is `a/b`."""
    pattern = posixpath.normpath(pattern)
    return pattern.lstrip("/") if len(pattern) > 1 else pattern


def _suffix(text: str) -> str:
    """What follows `**` at the beginning, when it is literal: then it may begin within a name."""
    rest = text[2:] if text.startswith("**") else ""
    return rest if rest and rest != "/" and not any(char in "*?[]\\" for char in rest) else ""
