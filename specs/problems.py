"""Values: what is wrong in a spec, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

#: Of a problem's text, in characters; a value in it may be as long as its file.
MAX_TEXT = 600
#: Of known words, among which the nearest one is looked for.
MAX_WORDS = 500


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake in one place. `line` and `column` count from 1, in characters. Sorts by place."""

    file: str
    line: int
    column: int
    text: str
    hint: str = ""

    def __str__(self) -> str:
        """One line without control characters: names and keys in it are a stranger's."""
        hint = f" ({self.hint})" if self.hint else ""
        text = (
            self.text
            if len(self.text) <= MAX_TEXT
            else f"{self.text[: MAX_TEXT // 2]} ... {self.text[-100:]}"
        )
        line = f"{self.file}:{self.line}:{self.column}: {text}{hint}"
        if line.isprintable():
            return line
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'X'?` for the known word most like `word`, or nothing when none is near."""
    words = sorted(known)
    if len(words) > MAX_WORDS or len(word) > 100:
        return ""
    found = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}?" if found else ""
