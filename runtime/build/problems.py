"""Values: what is wrong in a Dockerfile, where, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.build.values import Value

#: Of a problem's text, in characters: words in it are a stranger's.
MAX_TEXT = 600
#: Of the problems of one file; more of them are one mistake at its top.
MAX_PROBLEMS = 100


class Place(Value):
    """`line` and `column` count from 1, in characters; 0: the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Problem(Value):
    """One mistake in one place."""

    place: Place
    text: str
    hint: str = ""

    def __str__(self) -> str:
        """One line without control characters."""
        return printable(f"{self.place}: {short(self.text)}" + (f" ({self.hint})" if self.hint else ""))


class BuildWarning(Value):
    """What builds, but hardly as it was meant; `rule` is the name that `# check=skip=` knows it by."""

    place: Place
    rule: str
    text: str

    def __str__(self) -> str:
        return printable(f"{self.place}: {self.rule}: {short(self.text)}")


class DockerfileError(ValueError):
    """A Dockerfile that cannot be built. `problems` are all of them, in order of place; never empty."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))[:MAX_PROBLEMS]
        assert self.problems
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'X'?` for the known word most like `word`, or nothing when none is near."""
    if len(word) > 100:
        return ""
    import difflib  # only a mistake needs it, and a build that is cached should not wait for it

    by_lower = {name.lower(): name for name in sorted(known)}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[found[0]]!r}?" if found else ""


def short(text: str) -> str:
    """At most some MAX_TEXT characters of it."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]} ... {text[-100:]}"


def printable(text: str) -> str:
    """On one line and without control characters, which a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
