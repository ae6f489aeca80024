"""Decisions: variables, quotes and escapes in a Dockerfile's words.

Source: Dockerfile reference, "Environment replacement". Quotes are taken away, the escape character protects
the next one, `$name` and `${name}` become values, with the modifiers `:-` `-` `:+` `+` `:?` `?` `#` `##` `%`
`%%` `/` `//`. In single quotes nothing is replaced; in double quotes the escape character protects only
`"`, `$` and itself.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.build.globs import Glob, PatternError
from runtime.build.values import Value

#: Of what one text may become, in characters: values that double each other grow without end.
MAX_EXPANDED = 1 << 20
#: Of `${a:-${b:-...}}` in each other.
MAX_NESTING = 50

#: The value of a variable, None when it is not set.
Lookup = Callable[[str], str | None]

_SPECIAL = "@*#?-$!0"  # parameters of a shell; never set in a Dockerfile


class ExpansionError(ValueError):
    """A word cannot be read: an open quote or brace, a modifier that is none, `${name:?text}`.

    `offset` counts characters into the text.
    """

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text)
        self.offset = offset


class Expansion(Value):
    """`text` as a whole, `words` split at blanks that are not quoted (those of values split too).

    `unset` are the names of variables that had no value.
    """

    text: str
    words: tuple[str, ...]
    unset: frozenset[str]


def expand(text: str, lookup: Lookup, escape: str = "\\") -> str:
    """`text` with its variables replaced and its quotes and escapes taken away. Raises ExpansionError."""
    return examine(text, lookup, escape).text


def examine(
    text: str,
    lookup: Lookup,
    escape: str = "\\",
    *,
    raw_quotes: bool = False,
    raw_escapes: bool = False,
    keep_unset: bool = False,
    quotes: bool = True,
) -> Expansion:
    """As `expand`, with the words and with what had no value.

    `raw_quotes` and `raw_escapes` leave quotes and escapes where they stand, `keep_unset` leaves variables
    that have no value, `quotes=False` makes quotes ordinary characters (heredocs). Raises ExpansionError.
    """
    lexer = _Lexer(text, lookup, escape, raw_quotes, raw_escapes, keep_unset, quotes)
    out = lexer.until("", raw_escapes)
    return Expansion("".join(out.text), out.finished(), frozenset(lexer.unset))


class _Words:
    """Text as it grows, and the same split into words."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.words: list[str] = []
        self.word: list[str] = []

    def add(self, text: str) -> None:
        """Text whose blanks end a word."""
        self.text.append(text)
        for char in text:
            if not char.isspace():
                self.word.append(char)
            elif self.word:
                self.words.append("".join(self.word))
                self.word = []

    def add_quoted(self, text: str) -> None:
        self.text.append(text)
        if text:
            self.word.append(text)

    def finished(self) -> tuple[str, ...]:
        return (*self.words, "".join(self.word)) if self.word else tuple(self.words)


class _Lexer:
    def __init__(
        self,
        source: str,
        lookup: Lookup,
        escape: str,
        raw_quotes: bool,
        raw_escapes: bool,
        keep_unset: bool,
        quotes: bool,
    ) -> None:
        self.source, self.lookup, self.escape = source, lookup, escape
        self.raw_quotes, self.raw_escapes = raw_quotes, raw_escapes
        self.keep_unset, self.quotes = keep_unset, quotes
        self.at = self.depth = self.size = 0
        self.unset: set[str] = set()

    def error(self, text: str) -> ExpansionError:
        return ExpansionError(text, min(self.at, len(self.source)))

    def peek(self) -> str:
        return self.source[self.at : self.at + 1]

    def next(self) -> str:
        char = self.source[self.at : self.at + 1]
        self.at += 1
        return char

    def until(self, stop: str, raw_escapes: bool, opening: int = 0) -> _Words:
        """All up to the character `stop`, which is taken, of what began at `opening`; "" stops at the end."""
        before, self.raw_escapes = self.raw_escapes, raw_escapes
        out = _Words()
        while char := self.peek():
            if char == stop:
                break
            if char == "$":
                out.add(self.dollar())
            elif self.quotes and char == "'":
                out.add_quoted(self.single())
            elif self.quotes and char == '"':
                out.add_quoted(self.double())
            elif char == self.escape:
                self.at += 1
                protected = self.next()
                out.add_quoted((char if raw_escapes else "") + protected)
            else:
                start = self.at
                self.at += 1
                while (char := self.peek()) and self.plain(char, stop):
                    self.at += 1
                out.add(self.source[start : self.at])
        if stop:
            if not self.peek():
                raise ExpansionError(f"missing {stop!r}", opening)
            self.at += 1
        self.raw_escapes = before
        return out

    def plain(self, char: str, stop: str) -> bool:
        return char not in ("$", "'", '"', self.escape) and char != stop

    def single(self) -> str:
        end = self.source.find("'", self.at + 1)
        if end < 0:
            raise self.error("a single quote is not closed")
        inside = self.source[self.at + 1 : end]
        self.at = end + 1
        return f"'{inside}'" if self.raw_quotes else inside

    def double(self) -> str:
        opening = self.at
        out: list[str] = []
        self.at += 1
        quote = '"' if self.raw_quotes else ""
        while char := self.peek():
            if char == '"':
                self.at += 1
                return quote + "".join(out) + quote
            if char == "$":
                out.append(self.dollar())
                continue
            self.at += 1
            if char == self.escape:
                after = self.peek()
                if self.raw_escapes:
                    out.append(char)
                if after in ('"', "$", self.escape):
                    char = self.next()
                elif self.raw_escapes or not after:
                    continue
            out.append(char)
        self.at = opening
        raise self.error("a double quote is not closed")

    def dollar(self) -> str:
        opening = self.at
        self.at += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            value = self.value(name)
            return self.counted("$" + name if value is None and self.keep_unset else value or "")
        self.at += 1
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.error(f"more than {MAX_NESTING} ${{...}} inside each other")
        value = self.braces(opening)
        self.depth -= 1
        return self.counted(value)

    def counted(self, value: str) -> str:
        self.size += len(value)
        if self.size > MAX_EXPANDED:
            raise self.error(f"it becomes longer than {MAX_EXPANDED} characters")
        return value

    def braces(self, opening: int) -> str:
        """What follows the `${` at `opening`, with its `}`."""
        if self.peek() in ("{", "}", ":"):
            raise self.error("bad substitution: a name must follow '${'")
        name = self.name()
        modifier = self.next()
        if modifier == "}":
            value = self.value(name)
            return "${" + name + "}" if value is None and self.keep_unset else value or ""
        if not modifier:
            raise ExpansionError("missing '}'", opening)
        if modifier == "/":
            return self.replace(name, opening)
        empty_is_unset = modifier == ":"
        kind = self.next() if empty_is_unset else modifier
        if kind not in tuple("-+?") and (empty_is_unset or kind not in tuple("#%")):
            self.at -= 1
            raise self.error(f"modifier {modifier + (kind if empty_is_unset else '')!r} is not supported")
        word = "".join(self.until("}", kind in "#%", opening).text)
        value = self.value(name)
        if value is None and self.keep_unset:
            return "${" + name + (":" if empty_is_unset else "") + kind + word + "}"
        if kind in "#%":
            return self.trimmed(value or "", word, kind)
        missing = value is None or (empty_is_unset and not value)
        if kind == "-":
            return word if missing else value or ""
        if kind == "+":
            return "" if missing else word
        if missing:
            state = "unset" if value is None else "empty"
            raise self.error(f"{name}: {word or f'is not allowed to be {state}'}")
        return value or ""

    def trimmed(self, value: str, word: str, kind: str) -> str:
        longest = word[:1] == kind
        try:
            glob = Glob.parse(word[1:] if longest else word)
        except PatternError as error:
            raise self.error(str(error)) from None
        return glob.without_suffix(value, longest) if kind == "%" else glob.without_prefix(value, longest)

    def replace(self, name: str, opening: int) -> str:
        every = self.peek() == "/"
        self.at += every
        pattern = "".join(self.until("/", True, opening).text)
        replacement = "".join(self.until("}", True, opening).text)
        value = self.value(name)
        if value is None and self.keep_unset:
            return "${" + name + ("//" if every else "/") + pattern + "/" + replacement + "}"
        try:
            return Glob.parse(pattern).replaced(value or "", replacement, every)
        except PatternError as error:
            raise self.error(str(error)) from None

    def name(self) -> str:
        """Digits, one special parameter, or letters, digits and `_`; "" when none stands here."""
        start = self.at
        if self.peek().isdecimal():
            while self.peek().isdecimal():
                self.at += 1
        elif self.peek() and self.peek() in _SPECIAL:
            self.at += 1
        else:
            while (char := self.peek()) and (char.isalnum() or char == "_"):
                self.at += 1
        return self.source[start : self.at]

    def value(self, name: str) -> str | None:
        value = self.lookup(name)
        if value is None:
            self.unset.add(name)
        return value
