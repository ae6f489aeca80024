"""Decisions: bytes -> directives and logical lines: comments gone, continuations joined, heredocs taken.

Source: Dockerfile reference, "Format", "Parser directives", "Here-documents".
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from runtime.build import words
from runtime.build.instructions import Heredoc
from runtime.build.problems import Place, Problem
from runtime.build.values import Value

MAX_BYTES = 2 * 1024 * 1024  # of a Dockerfile
MAX_LINES = 50_000
MAX_INSTRUCTIONS = 10_000
MAX_HEREDOCS = 100  # of one instruction

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)\Z")
_TAKES_HEREDOCS = re.compile(r"\s*(?:ONBUILD\s+)*(?:RUN|COPY|ADD)(?:\s|\Z)", re.IGNORECASE)
_NO_VARIABLE: words.Lookup = lambda name: None  # noqa: E731


class Directives(Value):
    """What the comments at the very top set."""

    escape: str = "\\"
    syntax: str = ""
    check: str = ""
    check_line: int = 0


class Logical(Value):
    """One instruction on one line. `starts` maps offsets in `text` to where their characters stand."""

    file: str
    text: str
    starts: tuple[tuple[int, int, int], ...]  # (offset, line, column)
    last_line: int
    heredocs: tuple[Heredoc, ...] = ()
    empty_continuation: int = 0  # the number of the first such line

    def place(self, offset: int = 0) -> Place:
        """Where the character at `offset` of `text` stands in the file."""
        start, line, column = self.starts[max(0, bisect_right(self.starts, (offset, 1 << 60, 0)) - 1)]
        return Place(self.file, line, column + offset - start)


class Read(Value):
    directives: Directives
    lines: tuple[Logical, ...]
    problems: tuple[Problem, ...]


def read(data: bytes, name: str) -> Read:
    """Every logical line of the file; what is wrong with it is in `problems`, and left out of `lines`."""
    if len(data) > MAX_BYTES:
        return _refused(name, f"a Dockerfile has at most {MAX_BYTES} bytes, this one {len(data)}")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    physical = text.split("\n")
    if len(physical) > MAX_LINES:
        return _refused(name, f"a Dockerfile has at most {MAX_LINES} lines, this one {len(physical)}")
    return _Reader(name, physical).read()


def _refused(name: str, text: str) -> Read:
    return Read(Directives(), (), (Problem(Place(name), text),))


class _Reader:
    def __init__(self, file: str, physical: list[str]) -> None:
        self.file, self.physical = file, physical
        self.at = 0  # lines taken
        self.problems: list[Problem] = []
        self.lines: list[Logical] = []
        self.escape = "\\"

    def read(self) -> Read:
        directives = self.directives()
        self.escape = directives.escape
        continuation = _continuation(self.escape)
        while self.at < len(self.physical):
            line = self.physical[self.at].strip()
            if not line or line.startswith("#"):
                self.at += 1
            else:
                self.logical(continuation)
                if len(self.lines) > MAX_INSTRUCTIONS:
                    self.problem(f"a Dockerfile has at most {MAX_INSTRUCTIONS} instructions", self.at)
                    break
        return Read(directives, tuple(self.lines), tuple(self.problems))

    def problem(self, text: str, line: int, column: int = 1, hint: str = "") -> None:
        self.problems.append(Problem(Place(self.file, line, column), text, hint))

    def directives(self) -> Directives:
        """The directives at the top; the first line that is none ends them."""
        found: dict[str, tuple[str, int]] = {}
        for number, line in enumerate(self.physical, 1):
            match = _DIRECTIVE.match(line.strip())
            key = match[1].lower() if match else ""
            if match is None or key not in ("syntax", "escape", "check"):
                break
            if key in found:
                self.problem(f"only one {key!r} directive can be used", number)
            elif key == "escape" and match[2] not in ("\\", "`"):
                self.problem(f"the escape character is \\ or `, not {match[2]!r}", number)
            else:
                found[key] = match[2], number
        check, line_number = found.get("check", ("", 0))
        return Directives(
            found.get("escape", ("\\", 0))[0],
            found.get("syntax", ("", 0))[0],
            check,
            line_number,
        )

    def logical(self, continuation: re.Pattern[str]) -> None:
        """Take one instruction with its continuations and heredocs."""
        parts: list[str] = []
        starts: list[tuple[int, int, int]] = []
        size = empty = 0
        for line in self.joined():
            column = 1
            if not size:
                column += len(line) - len(line.lstrip())
                line = line.lstrip()
            if parts and not line.strip():
                empty = empty or self.at
                continue
            cut = continuation.search(line)
            part = line[: cut.start("mark")] if cut else line
            starts.append((size, self.at, column))
            parts.append(part)
            size += len(part)
            if not cut:
                break
        text = "".join(parts).rstrip()
        if not text:
            return
        heredocs = self.heredocs(text)
        logical = Logical(self.file, text, tuple(starts), self.at, heredocs, empty)
        if self.readable(logical):
            self.lines.append(logical)

    def joined(self) -> Iterator[str]:
        """Lines from here on without the comments between them."""
        first = True
        while self.at < len(self.physical):
            line = self.physical[self.at].rstrip("\r\n")
            self.at += 1
            if first or not line.lstrip().startswith("#"):
                yield line
            first = False

    def heredocs(self, text: str) -> tuple[Heredoc, ...]:
        """Take the heredocs that `text` opens from the lines that follow."""
        opened = heredocs_of(text, self.escape)
        if len(opened) > MAX_HEREDOCS:
            self.problem(f"an instruction has at most {MAX_HEREDOCS} heredocs", self.at)
            return ()
        return tuple(self.heredoc(one) for one in opened)

    def heredoc(self, opened: Heredoc) -> Heredoc:
        opening, written = self.at, []
        while self.at < len(self.physical):
            line = self.physical[self.at]
            self.at += 1
            bare = line.rstrip("\r\n")
            if (bare.lstrip("\t") if opened.strip_tabs else bare) == opened.name:
                break
            written.append(line + "\n")
        else:
            self.problem(
                f"heredoc {opened.name!r} has no end", opening, hint=f"a line {opened.name} alone ends it"
            )
        content = [line.lstrip("\t") for line in written] if opened.strip_tabs else written
        return Heredoc(
            opened.name,
            "".join(content),
            "".join(written),
            opened.strip_tabs,
            opened.expand,
            opened.descriptor,
        )

    def readable(self, logical: Logical) -> bool:
        """Whether its text can be given to a program and written into a config."""
        whole = "".join((logical.text, *(heredoc.content for heredoc in logical.heredocs)))
        if whole.isascii() and "\0" not in whole:
            return True
        for char, what in (("\0", "a NUL character"), (r"[\udc80-\udcff]", "a byte that is not UTF-8")):
            if found := re.search(char, whole):
                inside = found.start() < len(logical.text)
                place = logical.place(found.start() if inside else 0)
                self.problems.append(
                    Problem(place, f"{what} is in an instruction{'' if inside else ' (heredoc)'}")
                )
                return False
        return True


def _continuation(escape: str) -> re.Pattern[str]:
    """The escape character at a line's end continues it, unless another one protects it."""
    mark = re.escape(escape)
    return re.compile(rf"(?:(?<!{mark})|\A)(?P<mark>{mark}[ \t]*)\Z")


def heredocs_of(text: str, escape: str) -> tuple[Heredoc, ...]:
    """The heredocs that an instruction opens, still empty."""
    if "<<" not in text or not _TAKES_HEREDOCS.match(text):
        return ()
    try:
        found = words.examine(text, _NO_VARIABLE, escape, raw_quotes=True, raw_escapes=True, keep_unset=True)
    except words.ExpansionError:
        return ()
    return tuple(one for word in found.words if (one := heredoc_word(word)))


def heredoc_word(word: str) -> Heredoc | None:
    """`<<NAME`, `<<-NAME`, `3<<"NAME"`: an empty heredoc; None for any other word."""
    match = _HEREDOC.match(word)
    if match is None or not match[3]:
        return None
    try:
        plain = words.examine(match[3], _NO_VARIABLE, keep_unset=True).words
    except words.ExpansionError:
        return None
    if len(plain) != 1:
        return None
    return Heredoc(plain[0], "", "", match[2] == "-", plain[0] == match[3], match[1])
