"""Decisions: the text of a template (agent.cli.template) becomes its parts, each with its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

Place = tuple[int, int]  # line and column, from 1
#: A method of docker's rows, {{.Label "key"}}, as a function: the row is its first argument.
LABEL = ".Label"


class TemplateError(Exception):
    """`str()` is "line:column: what is wrong"."""

    def __init__(self, text: str, place: Place) -> None:
        super().__init__(f"{place[0]}:{place[1]}: {text}")
        self.text, self.place = text, place


# ---------------------------------------------------------------- the parts


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Dot:
    pass


@dataclass(frozen=True, slots=True)
class Variable:
    name: str  # with its $
    place: Place


@dataclass(frozen=True, slots=True)
class Field:
    subject: Expression
    name: str
    place: Place


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: tuple[Expression, ...]
    place: Place


Expression = Literal | Dot | Variable | Field | Call


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    expression: Expression


@dataclass(frozen=True, slots=True)
class Assign:
    name: str
    expression: Expression
    new: bool  # := and not =
    place: Place


@dataclass(frozen=True, slots=True)
class If:
    condition: Expression
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class With:
    name: str  # of a variable, or empty
    subject: Expression
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Range:
    names: tuple[str, ...]  # of variables: none, the item's, or the key's and the item's
    subject: Expression
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]
    place: Place


Node = Text | Action | Assign | If | With | Range

# ---------------------------------------------------------------- pieces of the text

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<raw>`[^`]*`)
    | (?P<number>[+-]?[0-9]+(?:\.[0-9]+)?\b)
    | (?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
    | (?P<dot>\.)
    | (?P<variable>\$[A-Za-z0-9_]*)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>:=|=|\||,|\(|\))
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "nil": None}
_KEYWORDS = frozenset({"if", "else", "end", "range", "with"})


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: Place
    tight: bool  # nothing is between it and the one before


@dataclass(frozen=True, slots=True)
class _Piece:
    """Literal text, or the tokens of one action."""

    text: str
    tokens: tuple[_Token, ...] | None
    place: Place


def _place(text: str, offset: int) -> Place:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _pieces(text: str) -> Iterator[_Piece]:
    position, trim = 0, False
    while True:
        start = text.find("{{", position)
        literal = text[position:] if start < 0 else text[position:start]
        if trim:
            literal = literal.lstrip()
        if start < 0:
            yield _Piece(literal, None, _place(text, position))
            return
        inner = start + 2
        if re.match(r"-\s", text[inner : inner + 2]):
            literal, inner = literal.rstrip(), inner + 1
        yield _Piece(literal, None, _place(text, position))
        tokens, position, trim = _action(text, start, inner)
        if tokens is not None:
            yield _Piece("", tokens, _place(text, start))


def _action(text: str, start: int, inner: int) -> tuple[tuple[_Token, ...] | None, int, bool]:
    """The tokens of the action at `start` (None for a comment), where it ends, whether it trims behind it."""
    comment = re.compile(r"\s*/\*.*?\*/\s*?(\s-)?\}\}", re.DOTALL).match(text, inner)
    if comment is not None:
        return None, comment.end(), comment[1] is not None
    tokens: list[_Token] = []
    position, tight = inner, False
    while True:
        close = re.compile(r"(\s+-)?\}\}").match(text, position)
        if close is not None:
            return tuple(tokens), close.end(), close[1] is not None
        if position >= len(text):
            raise TemplateError("an action is not closed; write }}", _place(text, start))
        match = _TOKEN.match(text, position)
        if match is None:
            raise TemplateError(f"cannot read {text[position : position + 12]!r}", _place(text, position))
        kind = str(match.lastgroup)
        if kind != "space":
            tokens.append(_Token(kind, match.group(), _place(text, position), tight))
        tight, position = kind != "space", match.end()


# ---------------------------------------------------------------- reading


def parse(text: str, functions: Collection[str]) -> tuple[Node, ...]:
    """Raises TemplateError."""
    parser = _Parser(list(_pieces(text)), functions)
    nodes, end = parser.block(())
    assert end is None
    return nodes


class _Parser:
    def __init__(self, pieces: list[_Piece], functions: Collection[str]) -> None:
        self._pieces, self._functions = pieces, functions
        self._next = 0
        self._tokens: tuple[_Token, ...] = ()
        self._at = 0
        self._place: Place = (1, 1)

    def block(self, ends: tuple[str, ...]) -> tuple[tuple[Node, ...], _Token | None]:
        """Everything up to an action that begins with one of `ends`, which is returned as well."""
        nodes: list[Node] = []
        opened = self._place
        while self._next < len(self._pieces):
            piece = self._pieces[self._next]
            self._next += 1
            if piece.tokens is None:
                if piece.text:
                    nodes.append(Text(_unescaped(piece.text)))
                continue
            self._tokens, self._at, self._place = piece.tokens, 0, piece.place
            first = self._peek()
            if first is None:
                raise TemplateError("an action is empty", piece.place)
            if first.kind == "word" and first.text in _KEYWORDS:
                self._at += 1
                if first.text in ("else", "end"):
                    if first.text not in ends:
                        raise TemplateError(f"{first.text} has nothing to belong to", first.place)
                    return tuple(nodes), first
                nodes.append(self._control(first))
            else:
                nodes.append(self._simple())
        if ends:
            raise TemplateError("a block is not closed; write {{end}}", opened)
        return tuple(nodes), None

    def _control(self, word: _Token) -> Node:
        names = self._names() if word.text in ("range", "with") else ()
        if word.text == "with" and len(names) > 1:
            raise TemplateError("with makes one variable", word.place)
        subject = self._whole()
        body, end = self.block(("else", "end"))
        otherwise: tuple[Node, ...] = ()
        if end is not None and end.text == "else":
            following = self._peek()
            if following is not None and following.text == "if":
                self._at += 1
                otherwise = (self._control(following),)
            else:
                self._ended()
                otherwise, _ = self.block(("end",))
        else:
            self._ended()
        if word.text == "if":
            return If(subject, body, otherwise)
        if word.text == "with":
            return With(names[0] if names else "", subject, body, otherwise)
        return Range(names, subject, body, otherwise, word.place)

    def _names(self) -> tuple[str, ...]:
        """`$a :=` or `$a, $b :=`, if the action goes on so."""
        kinds = [token.text if token.kind == "mark" else token.kind for token in self._tokens[self._at :]]
        for shape in (["variable", ":="], ["variable", ",", "variable", ":="]):
            if kinds[: len(shape)] == shape:
                found = self._tokens[self._at : self._at + len(shape) : 2]
                self._at += len(shape)
                return tuple(token.text for token in found if token.kind == "variable")
        return ()

    def _simple(self) -> Node:
        first, mark = self._tokens[0], self._tokens[1] if len(self._tokens) > 1 else None
        if first.kind == "variable" and mark is not None and mark.text in (":=", "="):
            self._at += 2
            return Assign(first.text, self._whole(), mark.text == ":=", first.place)
        return Action(self._whole())

    def _whole(self) -> Expression:
        found = self._pipeline()
        self._ended()
        return found

    def _ended(self) -> None:
        token = self._peek()
        if token is not None:
            raise TemplateError(f"unexpected {token.text!r}", token.place)

    def _pipeline(self) -> Expression:
        """Each command gets what the one before made, as its last argument."""
        value = self._command(None)
        while (token := self._peek()) is not None and token.text == "|" and token.kind == "mark":
            self._at += 1
            value = self._command(value)
        return value

    def _command(self, piped: Expression | None) -> Expression:
        first = self._peek()
        if first is None or (first.kind == "mark" and first.text != "("):
            raise TemplateError("a value is missing", first.place if first else self._place)
        if first.kind == "word" and first.text not in _CONSTANTS:
            self._at += 1
            if first.text not in self._functions:
                known = ", ".join(sorted(self._functions))
                raise TemplateError(f"there is no function {first.text}; there are {known}", first.place)
            arguments = self._arguments() + ([piped] if piped is not None else [])
            return Call(first.text, tuple(arguments), first.place)
        value = self._operand()
        more = self._peek()
        has_key = more is not None and more.kind in ("string", "raw")
        if has_key and isinstance(value, Field) and value.name == "Label":
            value = Call(LABEL, (value.subject, self._operand()), value.place)
            more = self._peek()
        if more is not None and not (more.kind == "mark" and more.text in ("|", ")")):
            raise TemplateError(f"unexpected {more.text!r}: only a function has arguments", more.place)
        if piped is not None:
            raise TemplateError("only a function can take what is before |", first.place)
        return value

    def _arguments(self) -> list[Expression]:
        found: list[Expression] = []
        while (token := self._peek()) is not None and not (token.kind == "mark" and token.text != "("):
            if token.kind == "word" and token.text not in _CONSTANTS:
                if token.text not in self._functions:
                    raise TemplateError(f"unexpected {token.text!r}", token.place)
                self._at += 1
                found.append(Call(token.text, (), token.place))
            else:
                found.append(self._operand())
        return found

    def _operand(self) -> Expression:
        token = self._tokens[self._at]
        self._at += 1
        value: Expression
        match token.kind:
            case "string":
                value = Literal(_ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[0]), token.text[1:-1]))
            case "raw":
                value = Literal(token.text[1:-1])
            case "number":
                value = Literal(float(token.text) if "." in token.text else int(token.text))
            case "word":
                value = Literal(_CONSTANTS[token.text])
            case "dot":
                value = Dot()
            case "field":
                value = Field(Dot(), token.text[1:], token.place)
            case "variable":
                value = Variable(token.text, token.place)
            case _ if token.text == "(":
                value = self._pipeline()
                close = self._peek()
                if close is None or close.text != ")":
                    raise TemplateError("a parenthesis is not closed", token.place)
                self._at += 1
            case _:
                raise TemplateError(f"unexpected {token.text!r}", token.place)
        while (more := self._peek()) is not None and more.kind == "field" and more.tight:
            value = Field(value, more.text[1:], more.place)
            self._at += 1
        return value

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None


def _unescaped(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n")
