"""Decisions: variables. `${VAR}` in values as Compose has it, and files of variables (`.env`, env_file).

Forms: $V ${V} ${V:-d} ${V-d} ${V:?e} ${V?e} ${V:+x} ${V+x} $$; defaults may hold variables themselves. One
difference from Compose: a variable that is not set and has no default is a problem, not an empty text.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from specs.positions import Path

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_./-]*[A-Za-z0-9_])?")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
MAX_VALUE = 1 << 20
MAX_TOTAL = 8 << 20  # of one document
MAX_NESTING = 16
_TOO_LARGE = f"cannot replace variables: the values of this file become larger than {MAX_TOTAL >> 20} MiB"

Report = Callable[[Path, str, str], None]


class InterpolationError(ValueError):
    """`hint` says what to write instead."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


def flatten_node(node: Mapping[str, Any], prefix: str = "node") -> dict[str, str]:
    """{"name": "a", "labels": {"role": "db"}} -> {"node.name": "a", "node.labels.role": "db"}."""
    out: dict[str, str] = {}
    for key, value in node.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            out.update(flatten_node(value, name))
        else:
            out[name] = str(value)
    return out


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace every variable. Raises InterpolationError for the first one that cannot be."""
    if "$" not in text:
        return text
    out, end = _expand(text, 0, variables, 0)
    assert end == len(text)
    if len(out) > MAX_VALUE:
        raise InterpolationError("cannot replace variables: the result is larger than 1 MiB")
    return out


def interpolate_tree(value: Any, variables: Mapping[str, str], report: Report) -> Any:
    """The same data with variables replaced in its values, never in its keys. Every problem is reported."""
    return _Tree(variables, report).replaced(value, ())


class _Tree:
    """`left`: characters that all values together may still become."""

    def __init__(self, variables: Mapping[str, str], report: Report) -> None:
        self.variables, self.report = variables, report
        self.left = MAX_TOTAL

    def replaced(self, value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return value if "$" not in value else self.text(value, path)
        if isinstance(value, dict):
            return {key: self.replaced(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.replaced(item, (*path, index)) for index, item in enumerate(value)]
        return value

    def text(self, value: str, path: Path) -> str:
        if self.left < 0:
            return value
        try:
            out = interpolate(value, self.variables)
        except InterpolationError as error:
            self.report(path, str(error), error.hint)
            return value
        self.left -= len(out)
        if self.left < 0:
            self.report(path, _TOO_LARGE, "")
        return out


def _expand(text: str, at: int, variables: Mapping[str, str], depth: int) -> tuple[str, int]:
    """From `at` to the end, or, inside a default (depth > 0), to the closing brace, which is not consumed."""
    if depth > MAX_NESTING:
        raise InterpolationError("cannot replace variables: defaults nested too deeply")
    out: list[str] = []
    while at < len(text):
        char = text[at]
        if depth and char == "}":
            return "".join(out), at
        if char != "$":
            out.append(char)
            at += 1
        elif text.startswith("$$", at):
            out.append("$")
            at += 2
        elif text.startswith("${", at):
            value, at = _braced(text, at + 2, variables, depth)
            out.append(value)
        else:
            match = _PLAIN_NAME.match(text, at + 1)
            if match is None:
                raise InterpolationError(
                    f"cannot replace variable in {_short(text)}", "write $$ for a dollar"
                )
            out.append(_lookup(match[0], variables, f"${match[0]}"))
            at = match.end()
    if depth:
        raise InterpolationError(f"cannot replace variable in {_short(text)}: the closing brace is missing")
    return "".join(out), at


def _braced(text: str, at: int, variables: Mapping[str, str], depth: int) -> tuple[str, int]:
    match = _NAME.match(text, at)
    if match is None:
        raise InterpolationError(
            f"cannot replace variable in {_short(text)}: no name", "write $$ for a dollar"
        )
    name, at = match[0], match.end()
    if text.startswith("}", at):
        return _lookup(name, variables, f"${{{name}}}"), at + 1
    operator = _OPERATOR.match(text, at)
    if operator is None:
        raise InterpolationError(
            f"cannot replace variable in {_short(text)}: after {name!r} comes }} or one of :- - :? ? :+ +"
        )
    word_start = operator.end()
    is_set = name in variables and (variables[name] != "" or operator[0][0] != ":")
    is_set = is_set or isinstance(variables, _Anything)
    kind = operator[0][-1]
    wanted = (kind == "+") if is_set else (kind != "+")
    # A branch that is not taken is only read to its end: its variables need not be set.
    word, end = _expand(text, word_start, variables if wanted else _Anything(), depth + 1)
    if kind == "?" and not is_set:
        raise InterpolationError(
            f"variable {name!r} is not set: {word}" if word else f"variable {name!r} is not set"
        )
    if kind == "+":
        return (word if is_set else ""), end + 1
    return (variables[name] if is_set else word), end + 1


class _Anything(dict[str, str]):
    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


def _lookup(name: str, variables: Mapping[str, str], written: str) -> str:
    if name in variables:
        return variables[name]
    raise InterpolationError(
        f"variable {name!r} is not set", f"write ${{{name}:-}} for an empty default, ${written} for a dollar"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


# ---------------------------------------------------------------- files of variables

_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*(?:(=)[ \t]*|(?=\n|\Z|#))")
_BLANK_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "'": "'"}


def parse_env(
    content: bytes, variables: Mapping[str, str]
) -> tuple[dict[str, str], list[tuple[int, int, str]]]:
    """Lines `KEY=value`, `export KEY=value`, `KEY` (taken from `variables`), comments; as Compose reads them.

    'single quotes' are literal, "double quotes" know escapes, both may span lines; outside of single quotes
    variables are replaced, by `variables` first and then by earlier lines. Returns the values and
    problems (line, column, text).
    """
    try:
        text = content.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return {}, [(1, 1, "cannot read text: not UTF-8")]
    values: dict[str, str] = {}
    problems: list[tuple[int, int, str]] = []
    known = ChainMap(dict(variables), values)
    at, left = 0, MAX_TOTAL
    while at < len(text) and left >= 0:
        blank = _BLANK_LINE.match(text, at)
        if blank is not None:
            at = max(blank.end(), at + 1)
            continue
        match = _ASSIGNMENT.match(text, at)
        try:
            if match is None:
                raise InterpolationError("cannot read line: write KEY=value")
            start, at = match.end(), match.end()
            if match[2]:
                value, at = _env_value(text, start, known)
                left -= len(value)
                if left < 0:
                    raise InterpolationError(_TOO_LARGE)
                values[match[1]] = value
            elif match[1] in variables:
                values[match[1]] = variables[match[1]]
        except InterpolationError as error:
            offset = at
            line = text.count("\n", 0, offset) + 1
            problems.append((line, offset - text.rfind("\n", 0, offset), str(error)))
        newline = text.find("\n", at)
        at = len(text) if newline < 0 else newline + 1
    return values, problems


def parse_raw(content: bytes) -> tuple[dict[str, str], list[tuple[int, int, str]]]:
    """Lines KEY=VALUE, each value as it stands, quotes and dollars too, as `docker run --env-file` has them.
    Empty lines and those that begin with # are skipped."""
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return {}, [(1, 1, "cannot read text: not UTF-8")]
    values: dict[str, str] = {}
    problems: list[tuple[int, int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.lstrip()
        if not stripped or stripped.startswith("#"):
            continue
        key, found, value = stripped.partition("=")
        if not found or not key or re.search(r"\s", key):
            problems.append((number, 1, "cannot read line: write KEY=value"))
        else:
            values[key] = value
    return values, problems


def _env_value(text: str, at: int, variables: Mapping[str, str]) -> tuple[str, int]:
    quote = text[at : at + 1]
    if quote == "'":
        end = text.find("'", at + 1)
        if end < 0:
            raise InterpolationError("cannot read value: the closing quote is missing")
        return text[at + 1 : end], end + 1
    if quote == '"':
        return _double_quoted(text, at + 1, variables)
    newline = text.find("\n", at)
    end = len(text) if newline < 0 else newline
    value = re.split(r"(?:^|[ \t]+)#", text[at:end], maxsplit=1)[0].strip()
    return interpolate(value, variables), end


def _double_quoted(text: str, at: int, variables: Mapping[str, str]) -> tuple[str, int]:
    out: list[str] = []
    start = at
    while at < len(text):
        char = text[at]
        if char == '"':
            return interpolate("".join(out), variables), at + 1
        if char == "\\" and at + 1 < len(text):
            following = text[at + 1]
            out.append("$$" if following == "$" else _ESCAPES.get(following, "\\" + following))
            at += 2
        else:
            out.append(char)
            at += 1
    raise InterpolationError(f"cannot read value {_short(text[start - 1 :])}: the closing quote is missing")
