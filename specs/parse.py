"""Decisions: the bytes of a TOML or YAML file become plain data with positions, or problems.

YAML is read by the YAML 1.2 core schema (yaml.org/spec/1.2.2, section 10.3): `no`, `on` and `1:30` are text.
Merge keys (`<<`) are honoured, as Compose files use them. Duplicate keys are problems in both languages.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.reader import ReaderError

from specs import written
from specs.positions import Path, Positions, TomlPositions, YamlPositions, last_statement
from specs.problems import Problem

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 100_000  # of one YAML file, aliases counted as often as they are used
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Document:
    """One TOML file or one document of a YAML file: a mapping at its root, and where everything stands."""

    file: str
    data: dict[str, Any]
    positions: Positions

    def problem(self, path: Path, text: str, hint: str = "", *, at_key: bool = False) -> Problem:
        position = self.positions.key(path) if at_key else self.positions.value(path)
        return Problem(self.file, *position, text, hint)


def parse(file: str, content: bytes) -> tuple[list[Document], list[Problem]]:
    """By the file's ending. Either list may be empty; an empty YAML file has no document."""
    if len(content) > MAX_FILE_BYTES:
        return [], [Problem(file, 1, 1, f"cannot read file: larger than {MAX_FILE_BYTES >> 20} MiB")]
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return [], [Problem(file, line, column, "cannot read text: not UTF-8")]
    return _parse_toml(file, text) if file.lower().endswith(".toml") else _parse_yaml(file, text)


# ---------------------------------------------------------------- TOML

_TOML_TWICE = ("Cannot declare", "Cannot overwrite", "Cannot mutate", "Duplicate inline table key")
_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)\Z", re.DOTALL)


#: (part of tomllib's message, what stands before and after the place, what to do)
_TOML_CURES: tuple[tuple[str, Callable[[str, str], bool], str], ...] = (
    ("Invalid value", lambda _, rest: rest[:1].isalpha(), "text stands in quotes"),
    ("Expected '='", lambda _, rest: rest[:1] == ":", "TOML writes key = value"),
    ("Invalid initial character", lambda _, rest: not rest, "an inline table stands on one line"),
    ("Illegal character '\\n'", lambda _, rest: not rest, "the closing quote is missing"),
    (
        "Expected newline",
        lambda before, _: before[-1:] == "0",
        "a mode is 0o755, other text stands in quotes",
    ),
    ("Expected newline", lambda _, rest: True, "one key a line; text stands in quotes"),
)


def _parse_toml(file: str, text: str) -> tuple[list[Document], list[Problem]]:
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text, parse_float=written.decimal)
    except tomllib.TOMLDecodeError as error:
        return [], [_toml_problem(file, text, str(error))]
    except RecursionError:
        return [], [Problem(file, 1, 1, "cannot read TOML: nested too deeply")]
    except ValueError:  # int() refuses thousands of digits, and tomllib passes that on without a place
        digits = re.search(r"[0-9_]{1000,}", text)
        offset = digits.start() if digits is not None else 0
        line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
        return [], [Problem(file, line, column, "cannot read TOML: a number has too many digits")]
    return [Document(file, data, TomlPositions(text))], []


def _toml_problem(file: str, text: str, message: str) -> Problem:
    match = _TOML_PLACE.match(message)
    if match is not None and match[2]:
        line, column, message = int(match[2]), int(match[3]), match[1]
        if match[1].startswith(_TOML_TWICE):
            line, column, name = last_statement(text, line, column)
            return Problem(file, line, column, f"cannot read TOML: {name} is defined already")
    else:
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        message = match[1] if match is not None else message
    lines = text.split("\n")
    rest = lines[line - 1][column - 1 :] if line <= len(lines) else ""
    before = lines[line - 1][: column - 1] if line <= len(lines) else ""
    hint = next((cure for part, sign, cure in _TOML_CURES if part in message and sign(before, rest)), "")
    return Problem(file, line, column, f"cannot read TOML: {message[:1].lower()}{message[1:]}", hint)


# ---------------------------------------------------------------- YAML

_TAG = "tag:yaml.org,2002:"
_PLAIN = _TAG + "plain"  # ours: an untagged plain scalar
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class _Loader(CParser):
    """libyaml's parser; it only needs to know plain scalars from quoted ones."""

    def descend_resolver(self, parent: Any, index: Any) -> None: ...

    def ascend_resolver(self) -> None: ...

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _TAG + "str"
        return _TAG + ("seq" if kind is yaml.SequenceNode else "map")


class _Refused(Exception):
    def __init__(self, node: Any, text: str) -> None:
        self.node, self.text = node, text


def _parse_yaml(file: str, text: str) -> tuple[list[Document], list[Problem]]:
    documents: list[Document] = []
    problems: list[Problem] = []
    loader, nodes = None, 0
    try:
        _refuse_depth(text)
        loader = _Loader(text)
        while loader.check_node():
            root: Any = loader.get_node()
            if root.id == "scalar" and root.value == "":
                continue
            constructor = _Constructor(file, nodes)
            try:
                data = constructor.build(root, 0)
                if not isinstance(data, dict):
                    raise _Refused(root, "a spec is a mapping: write `container:` and its names")
                documents.append(Document(file, data, YamlPositions(root)))
            except _Refused as refused:
                problems.append(_at(file, refused.node, refused.text))
            problems += constructor.problems
            nodes = constructor.nodes
    except yaml.YAMLError as error:
        problems.append(_yaml_problem(file, text, error))
    except RecursionError:
        problems.append(Problem(file, 1, 1, "cannot read YAML: nested too deeply"))
    finally:
        if loader is not None:
            loader.dispose()
    return documents, problems


def _refuse_depth(text: str) -> None:
    """Raise for a text that nests so deeply that libyaml's composer, which recurses in C, would overflow.

    A cheap upper bound first; only a text that may be deep is read event by event.
    """
    brackets = text.count("[") + text.count("{")
    if brackets + max((_indents(line) for line in text.splitlines()), default=0) < 500:
        return
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH + 1:
                raise yaml.MarkedYAMLError(
                    problem=f"nested deeper than {MAX_DEPTH} levels",
                    problem_mark=event.start_mark,  # type: ignore[arg-type]
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _indents(line: str) -> int:
    return len(line) - len(line.lstrip()) + line.count("-") + line.count("?")


#: (part of libyaml's message, what to do)
_YAML_CURES = (
    (
        "mapping values are not allowed",
        "a blank follows a key's colon; text with a colon and a blank in it is quoted",
    ),
    ("cannot start any token", "YAML is indented with blanks; text that begins with @, ` or % is quoted"),
    ("tab character", "YAML is indented with blanks"),
    ("undefined alias", "text that begins with * is quoted"),
    ("expected ',' or", "text with [ ] { } in it is quoted between brackets"),
    ("did not find expected key", "keys of one table begin in one column"),
)


def _yaml_problem(file: str, text: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    if isinstance(error, ReaderError):  # its position counts bytes
        before = text.encode()[: error.position].decode(errors="ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    hint = next((cure for part, cure in _YAML_CURES if part in what), "")
    where = f", {context}" if context else ""
    return Problem(file, line, column, f"cannot read YAML: {what}{where}", hint)


def _at(file: str, node: Any, text: str) -> Problem:
    return Problem(file, node.start_mark.line + 1, node.start_mark.column + 1, text)


class _Constructor:
    """Data of one document. Duplicate keys are collected, what cannot be read at all raises _Refused."""

    def __init__(self, file: str, nodes: int) -> None:
        self.file = file
        self.nodes = nodes
        self.problems: list[Problem] = []

    def build(self, node: Any, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Refused(node, f"cannot read YAML: more than {MAX_NODES} nodes, aliases included")
        if depth > MAX_DEPTH:
            raise _Refused(
                node, f"cannot read YAML: nested deeper than {MAX_DEPTH} levels, or an alias of itself"
            )
        if node.id == "scalar":
            return _scalar(node)
        if node.id == "sequence":
            self._expect(node, "seq")
            return [self.build(item, depth + 1) for item in node.value]
        self._expect(node, "map")
        return self._mapping(node, depth)

    @staticmethod
    def _expect(node: Any, kind: str) -> None:
        if node.tag != _TAG + kind:
            raise _Refused(node, f"cannot read YAML: tag {_short(node.tag)} is not supported")

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        first: dict[str, Any] = {}
        merges: list[Any] = []
        for key, value in node.value:
            if key.id != "scalar":
                raise _Refused(key, "cannot read YAML: a key is text, not a list or a mapping")
            name = key.value
            if name == "<<" and key.tag == _PLAIN:
                merges.append(value)
            elif name in first:
                place = first[name].start_mark.line + 1
                self.problems.append(
                    _at(self.file, key, f"duplicate key {name!r}: it stands in line {place} too")
                )
            else:
                first[name] = key
                out[name] = self.build(value, depth + 1)
        for merge in merges:
            self._merge(out, merge, depth)
        return out

    def _merge(self, out: dict[str, Any], node: Any, depth: int) -> None:
        for merged in node.value if node.id == "sequence" else [node]:
            if merged.id != "mapping":
                raise _Refused(merged, "cannot read YAML: << merges mappings only")
            for key, value in self.build(merged, depth + 1).items():
                out.setdefault(key, value)


def _short(tag: str) -> str:
    return "!!" + tag[len(_TAG) :] if tag.startswith(_TAG) else tag


def _scalar(node: Any) -> Any:
    value: str = node.value
    tag = node.tag
    if tag == _TAG + "str":
        return value
    if tag == _PLAIN:
        if value in _WORDS:
            return _WORDS[value]
        first = value[0]
        if first in "-+.0123456789":
            return _number(value)
        return value
    return _tagged(node, tag, value)


def _number(value: str) -> Any:
    if _INT.match(value):
        if len(value) > 40:
            return value
        return written.integer(value, {"0o": 8, "0x": 16}.get(value[:2], 10))
    if _FLOAT.match(value):
        return written.decimal(value)
    if _SPECIAL_FLOAT.match(value):
        return float(value.replace(".", ""))
    return value


def _tagged(node: Any, tag: str, value: str) -> Any:
    wanted: dict[str, tuple[type, ...]] = {
        _TAG + "int": (int,),
        _TAG + "float": (float, int),
        _TAG + "bool": (bool,),
        _TAG + "null": (type(None),),
    }
    if tag not in wanted:
        raise _Refused(node, f"cannot read YAML: tag {_short(tag)} is not supported")
    found = _WORDS[value] if value in _WORDS else _number(value)
    if type(found) not in wanted[tag]:
        raise _Refused(node, f"cannot read YAML: {value!r} is no {_short(tag)[2:]}")
    return found
