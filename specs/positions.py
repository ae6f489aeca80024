"""Values: where in a TOML or YAML text a key or a value stands. Worked out only when somebody asks.

A path is the keys and indexes from the document's root: ("container", "web", "ports", 0). Positions are
(line, column), both from 1, in characters. A path that does not exist gets the place of its nearest parent.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from collections.abc import Iterator
from typing import Any, Protocol

Path = tuple[str | int, ...]
Position = tuple[int, int]


class Positions(Protocol):
    def table(self, path: Path) -> Position:
        """As `key`, for an object's own table: cheap, since every object keeps its place."""
        ...

    def key(self, path: Path) -> Position:
        """Where the key (or list item) itself stands."""
        ...

    def value(self, path: Path) -> Position:
        """Where its value begins."""
        ...


# ---------------------------------------------------------------- TOML

_HEADER = re.compile(r"^[ \t]*\[[ \t]*([a-z]+)[ \t]*\.[ \t]*([A-Za-z0-9_-]+)[ \t]*\]", re.MULTILINE)
_SKIP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!"")|""(?!"))*"{3,5}'
    r"|'''(?:[^']|'(?!'')|''(?!'))*'{3,5}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


class TomlPositions:
    """Positions in a text that tomllib has accepted."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: tuple[dict[Path, int], dict[Path, int]] | None = None
        self._lines: list[int] | None = None
        self._headers: dict[Path, Position] | None = None

    def table(self, path: Path) -> Position:
        if self._headers is None:
            self._headers = {}
            if '"""' not in self._text and "'''" not in self._text:  # a header inside a string is none
                line, last = 1, 0
                for match in _HEADER.finditer(self._text):
                    start = match.start(0) + len(match[0]) - len(match[0].lstrip())
                    line += self._text.count("\n", last, start)
                    last = start
                    column = start - self._text.rfind("\n", 0, start)
                    self._headers.setdefault((match[1], match[2]), (line, column))
        return self._headers.get(path) or self.key(path)

    def key(self, path: Path) -> Position:
        return self._position(self._scan()[0], path)

    def value(self, path: Path) -> Position:
        return self._position(self._scan()[1], path)

    def paths(self) -> set[Path]:
        """Every path that the text defines; for tests."""
        return set(self._scan()[1])

    def _scan(self) -> tuple[dict[Path, int], dict[Path, int]]:
        if self._found is None:
            scanner = _TomlScanner(self._text)
            scanner.run()
            self._found = scanner.keys, scanner.values
        return self._found

    def _position(self, offsets: dict[Path, int], path: Path) -> Position:
        while path and path not in offsets:
            path = path[:-1]
        offset = offsets.get(path, 0)
        if self._lines is None:
            self._lines = [0] + [i + 1 for i, char in enumerate(self._text) if char == "\n"]
        line = bisect.bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1


def last_statement(text: str, line: int, column: int) -> tuple[int, int, str]:
    """(line, column, dotted name) of the key or header that ends at the given place of a text that is valid
    so far.
    """
    lines = text.split("\n")
    end = sum(len(one) + 1 for one in lines[: line - 1]) + column - 1
    scanner = _TomlScanner(text[:end])
    try:
        scanner.run()
    except (IndexError, ValueError):  # it ends within a header or an inline table
        pass
    start = scanner.last
    name = ".".join(str(part) for part in scanner.last_path if isinstance(part, str))
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start), name or "a key"


class _TomlScanner:
    """Walks valid TOML (toml.io/en/v1.0.0, the ABNF's expression level) and notes offsets."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.keys: dict[Path, int] = {}
        self.values: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # arrays of tables: how many so far
        self.last = 0  # where the last key or header begins
        self.last_path: Path = ()

    def run(self) -> None:
        table: Path = ()
        while True:
            self.skip()
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def skip(self) -> None:
        match = _SKIP.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def header(self) -> Path:
        start = self.at
        array = self.text.startswith("[[", start)
        self.at += 2 if array else 1
        path: Path = ()
        parts = list(self.key_parts())
        self.last, self.last_path = start, tuple(name for name, _ in parts)
        for index, (name, offset) in enumerate(parts):
            path = (*path, name)
            last = index == len(parts) - 1
            if last and array:
                self.keys.setdefault(path, start)
                self.values.setdefault(path, start)
                count = self.counts.get(path, 0)
                self.counts[path] = count + 1
                path = (*path, count)
                self.keys[path] = self.values[path] = start
            elif last:
                self.keys[path] = self.values[path] = start
            else:
                self.keys.setdefault(path, offset)
                self.values.setdefault(path, offset)
                if path in self.counts:
                    path = (*path, self.counts[path] - 1)
        self.at += 2 if array else 1
        return path

    def key_parts(self) -> Iterator[tuple[str, int]]:
        while True:
            self.blank()
            start = self.at
            match = _BARE.match(self.text, start) or _STRING.match(self.text, start)
            if match is None:
                raise ValueError(f"cannot read key at offset {start}")
            self.at = match.end()
            yield _name(match[0]), start
            self.blank()
            if not self.text.startswith(".", self.at):
                return
            self.at += 1

    def pair(self, table: Path) -> None:
        path = table
        start = self.at
        for name, offset in self.key_parts():
            path = (*path, name)
            self.last, self.last_path = start, path
            self.keys.setdefault(path, offset)
            self.values.setdefault(path, offset)
        self.at += 1  # =
        self.blank()
        self.values[path] = self.at
        self.read(path)

    def read(self, path: Path) -> None:
        first = self.text[self.at]
        if first == "[":
            self.array(path)
        elif first == "{":
            self.inline(path)
        elif first in "\"'":
            match = _STRING.match(self.text, self.at)
            self.at = match.end() if match else len(self.text)
        else:
            match = _SCALAR.match(self.text, self.at)
            self.at = match.end() if match else self.at + 1

    def array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self.skip()
            if self.text[self.at] == "]":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            item = (*path, index)
            self.keys[item] = self.values[item] = self.at
            self.read(item)
            index += 1
        self.at += 1

    def inline(self, path: Path) -> None:
        self.at += 1
        while True:
            self.skip()
            if self.text[self.at] == "}":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.pair(path)
        self.at += 1


def _name(token: str) -> str:
    if token[0] == '"' and "\\" in token:
        return str(tomllib.loads(f"k = {token}")["k"])
    return token[1:-1] if token[0] in "\"'" else token


# ---------------------------------------------------------------- YAML


class YamlPositions:
    """Walks PyYAML's node graph, so that nothing is paid while all is well."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._children: dict[int, dict[str, tuple[Any, Any]]] = {}  # of a mapping node, by its id

    def table(self, path: Path) -> Position:
        return self.key(path)

    def key(self, path: Path) -> Position:
        return self._mark(self._walk(path)[0])

    def value(self, path: Path) -> Position:
        return self._mark(self._walk(path)[1])

    def _walk(self, path: Path) -> tuple[Any, Any]:
        key = value = self._root
        for part in path:
            found = self._child(value, part, 0)
            if found is None:
                break
            key, value = found
        return key, value

    @staticmethod
    def _mark(node: Any) -> Position:
        return (node.start_mark.line + 1, node.start_mark.column + 1) if node is not None else (1, 1)

    def _child(self, node: Any, part: str | int, depth: int) -> tuple[Any, Any] | None:
        if isinstance(part, int):
            if node.id == "sequence" and part < len(node.value):
                return node.value[part], node.value[part]
            return None
        if node.id != "mapping":
            return None
        children = self._children.get(id(node))
        if children is None:
            children = self._children[id(node)] = {}
            for key, value in node.value:
                if key.id == "scalar":
                    children.setdefault(key.value, (key, value))
        if part in children:
            return children[part]
        for key, value in node.value:
            if key.id == "scalar" and key.value == "<<" and depth < 16:
                for merged in value.value if value.id == "sequence" else [value]:
                    found = self._child(merged, part, depth + 1)
                    if found is not None:
                        return found
        return None
