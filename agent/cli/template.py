"""Decisions: what `--format` makes of a thing: a template in the language of Go, as docker has it.

In it: literal text; {{.Field.Sub}}, {{$}}, strings, numbers; pipelines {{.Tag | upper}}; if, else, else if,
range, with, end; variables {{$x := .A}}; comments {{/* */}}; {{- and -}} take away the white space beside
them. Functions are those of Go (and or not len index slice print printf println eq ne lt le gt ge) and of
docker (json join split lower upper title pad truncate); rows of things with labels have
{{.Label "key"}}. Data are strings, numbers, booleans, None, lists, mappings.

`agent.cli.template_text` reads the text, here the parts are put to work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from agent.cli import template_functions
from agent.cli.template_text import (
    LABEL,
    Action,
    Assign,
    Call,
    Dot,
    Expression,
    Field,
    If,
    Literal,
    Node,
    Place,
    Range,
    TemplateError,
    Text,
    Variable,
    With,
    parse,
)

__all__ = ["Open", "Template", "TemplateError"]


class Open(dict[str, Any]):
    """A mapping whose keys users choose, such as labels: one that is not there has no value, which is no
    mistake."""


@dataclass(frozen=True, slots=True)
class Template:
    """`nodes` as they were read from `text`. Making one raises TemplateError with a place."""

    nodes: tuple[Node, ...]

    @classmethod
    def read(cls, text: str) -> Template:
        """\\t and \\n outside of actions are a tab and a new line, as a shell's quotes leave them."""
        return cls(parse(text, template_functions.NAMES))

    def render(self, data: Any) -> str:
        """Raises TemplateError where the data have no such field or are not of the kind that is needed."""
        scope = _Scope(data, {"$": data})
        return "".join(_render(self.nodes, scope))

    def heads(self, titles: Mapping[str, str]) -> str:
        """The head of a table whose rows are rendered from this: titles in place of the fields."""
        return "".join(_heads(self.nodes, titles))

    def fields(self) -> frozenset[str]:
        """The names of all fields that are asked for, whatever they belong to."""
        return frozenset(_fields(self.nodes))


@dataclass(slots=True)
class _Scope:
    """What `.` is, and the variables that can be seen; those made inside of a block end with it."""

    dot: Any
    variables: dict[str, Any]
    outer: _Scope | None = field(default=None)

    def inside(self, dot: Any) -> _Scope:
        return _Scope(dot, {}, self)

    def find(self, name: str, place: Place) -> Any:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.variables:
                return scope.variables[name]
            scope = scope.outer
        raise TemplateError(f"there is no variable {name}", place)

    def change(self, name: str, value: Any, place: Place) -> None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.variables:
                scope.variables[name] = value
                return
            scope = scope.outer
        raise TemplateError(f"there is no variable {name}; make it with :=", place)


def _render(nodes: Sequence[Node], scope: _Scope) -> list[str]:
    parts: list[str] = []
    for node in nodes:
        match node:
            case Text(text):
                parts.append(text)
            case Action(expression):
                parts.append(template_functions.show(_value(expression, scope)))
            case Assign(name, expression, new, place):
                value = _value(expression, scope)
                if new:
                    scope.variables[name] = value
                else:
                    scope.change(name, value, place)
            case If(condition, body, otherwise):
                chosen = body if template_functions.truth(_value(condition, scope)) else otherwise
                parts += _render(chosen, scope.inside(scope.dot))
            case With(name, subject, body, otherwise):
                value = _value(subject, scope)
                inner = scope.inside(value if template_functions.truth(value) else scope.dot)
                if name:
                    inner.variables[name] = value
                parts += _render(body if template_functions.truth(value) else otherwise, inner)
            case Range():
                parts += _range(node, scope)
            case _:
                assert_never(node)
    return parts


def _range(node: Range, scope: _Scope) -> list[str]:
    """Lists by index, mappings by sorted key, a number n as 0 to n-1."""
    value = _value(node.subject, scope)
    pairs: list[tuple[Any, Any]]
    match value:
        case Mapping():
            pairs = sorted(value.items())
        case bool() | str() | float():
            raise TemplateError(f"range needs a list or a mapping, not {value!r}", node.place)
        case int():
            pairs = [(number, number) for number in range(value)]
        case None:
            pairs = []
        case _:
            pairs = list(enumerate(value))
    if not pairs:
        return _render(node.otherwise, scope.inside(scope.dot))
    parts: list[str] = []
    for key, item in pairs:
        inner = scope.inside(item)
        if node.names:
            inner.variables[node.names[-1]] = item
        if len(node.names) == 2:
            inner.variables[node.names[0]] = key
        parts += _render(node.body, inner)
    return parts


def _value(expression: Expression, scope: _Scope) -> Any:
    match expression:
        case Literal(value):
            return value
        case Dot():
            return scope.dot
        case Variable(name, place):
            return scope.find(name, place)
        case Field(subject, name, place):
            return _field(_value(subject, scope), name, place)
        case Call("and", arguments, _) | Call("or", arguments, _):
            return _first(expression.name == "or", arguments, scope)
        case Call(name, arguments, place):
            values = [_value(argument, scope) for argument in arguments]
            try:
                return template_functions.call(name, values)
            except template_functions.Misused as error:
                raise TemplateError(f"{name}: {error}", place) from None
        case _:
            assert_never(expression)


def _first(truth: bool, arguments: Sequence[Expression], scope: _Scope) -> Any:
    """Of `and` and `or`: the first value that decides, else the last; what follows is not looked at."""
    value: Any = None
    for argument in arguments:
        value = _value(argument, scope)
        if template_functions.truth(value) is truth:
            break
    return value


def _field(value: Any, name: str, place: Place) -> Any:
    if not isinstance(value, Mapping):
        what = "nothing" if value is None else type(value).__name__
        raise TemplateError(f"there is no field .{name} of {what}", place)
    if name in value:
        return value[name]
    if isinstance(value, Open):
        return None
    known = ", ".join(f".{key}" for key in value)
    raise TemplateError(f"there is no field .{name}; there are {known or 'none'}", place)


def _heads(nodes: Sequence[Node], titles: Mapping[str, str]) -> list[str]:
    parts: list[str] = []
    for node in nodes:
        match node:
            case Text(text):
                parts.append(text)
            case Action(Call(name, (_, Literal(str(key))))) if name == LABEL:  # as docker has it
                parts.append(key.rpartition(".")[2].replace("-", " ").replace("_", " "))
            case Action(expression):
                parts.append(" ".join(titles.get(name, name.upper()) for name in _asked(expression)))
            case Assign():
                pass
            case If(_, body, _) | With(_, _, body, _) | Range(_, _, body, _, _):
                parts += _heads(body, titles)
            case _:
                assert_never(node)
    return parts


def _fields(nodes: Sequence[Node]) -> list[str]:
    found: list[str] = []
    for node in nodes:
        match node:
            case Text():
                pass
            case Action(expression) | Assign(_, expression, _, _):
                found += _asked(expression)
            case If(subject, body, otherwise):
                found += _asked(subject) + _fields(body) + _fields(otherwise)
            case With(_, subject, body, otherwise) | Range(_, subject, body, otherwise, _):
                found += _asked(subject) + _fields(body) + _fields(otherwise)
            case _:
                assert_never(node)
    return found


def _asked(expression: Expression) -> list[str]:
    match expression:
        case Field(subject, name, _):
            return [*_asked(subject), name]
        case Call(_, arguments, _):
            return [name for argument in arguments for name in _asked(argument)]
        case _:
            return []
