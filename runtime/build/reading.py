"""Decisions: one logical line -> one instruction. Source: Dockerfile reference, a section an instruction."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TypedDict

from runtime.build import flags
from runtime.build.flags import Flags, Kind, Wrong
from runtime.build.instructions import (
    Add,
    Arg,
    Cmd,
    CommandLine,
    Copy,
    Declared,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    MountFlag,
    Onbuild,
    Pair,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from runtime.build.lines import Logical, heredoc_word
from runtime.build.mounts import MountError, from_of, read_mount
from runtime.build.problems import Place, Problem, nearest

MAX_STAGE_NAME = 128  # characters

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_KEYWORD = re.compile(r"([^\t\v\f\r ]+)[\t\v\f\r ]*")
_SURROGATE = re.compile("[\ud800-\udfff]")

_COPY_FLAGS: dict[str, Kind] = {
    "from": "text",
    "chown": "text",
    "chmod": "text",
    "link": "yes-no",
    "parents": "yes-no",
    "exclude": "texts",
}
_ADD_FLAGS: dict[str, Kind] = {
    "chown": "text",
    "chmod": "text",
    "link": "yes-no",
    "exclude": "texts",
    "keep-git-dir": "yes-no",
    "checksum": "text",
    "unpack": "yes-no",
}
_RUN_FLAGS: dict[str, Kind] = {"mount": "texts", "network": "text", "security": "text"}
_HEALTHCHECK_FLAGS: dict[str, Kind] = {
    "interval": "text",
    "timeout": "text",
    "start-period": "text",
    "start-interval": "text",
    "retries": "text",
}
_KNOWN_FLAGS: dict[str, Mapping[str, Kind]] = {
    "FROM": {"platform": "text"},
    "RUN": _RUN_FLAGS,
    "COPY": _COPY_FLAGS,
    "ADD": _ADD_FLAGS,
    "HEALTHCHECK": _HEALTHCHECK_FLAGS,
}


class _Place(TypedDict):
    place: Place
    keyword: str
    text: str
    last_line: int


class Line:
    """A logical line cut into keyword, flags and the rest, which begins at offset `at`."""

    def __init__(self, logical: Logical, keyword: str, found: list[flags.Flag], at: int, escape: str) -> None:
        self.logical, self.keyword, self.found, self.at, self.escape = logical, keyword, found, at, escape
        self.flags = Flags({})

    @classmethod
    def of(cls, logical: Logical, escape: str) -> Line:
        match = _KEYWORD.match(logical.text)
        assert match is not None, "a logical line is not empty"
        found, at = flags.take(logical.text, match.end(), escape)
        return cls(logical, match[1], found, at, escape)

    @property
    def rest(self) -> str:
        return self.logical.text[self.at :]

    def place(self, offset: int | None = None) -> Place:
        return self.logical.place(self.at if offset is None else offset)

    def wrong(self, text: str, hint: str = "") -> Wrong:
        """Something about the arguments as a whole."""
        return Wrong(text, self.at if self.rest else 0, hint)

    def written(self) -> _Place:
        logical = self.logical
        return _Place(
            place=logical.place(),
            keyword=self.keyword,
            text=logical.text,
            last_line=logical.last_line,
        )


def read_instruction(line: Line, problems: list[Problem]) -> Instruction | From | None:
    """What the line says; None when something is wrong with it, which is added to `problems`."""
    before = len(problems)

    def report(wrong: Wrong) -> None:
        problems.append(Problem(line.logical.place(wrong.offset), wrong.text, wrong.hint))

    keyword = line.keyword.upper()
    line.flags = flags.check(line.found, _KNOWN_FLAGS.get(keyword, {}), keyword, report)
    try:
        if keyword == "ONBUILD":
            return _onbuild(line, problems)
        instruction = _READERS[keyword](line)
    except Wrong as wrong:
        report(wrong)
        return None
    return instruction if len(problems) == before else None


# ---------------------------------------------------------------- words


def _by_blanks(line: Line) -> list[tuple[str, int]]:
    """The rest of the line cut at blanks only: (word, offset)."""
    out, at = [], line.at
    for word in _BLANKS.split(line.rest) if line.rest else []:
        at = line.logical.text.index(word, at)
        out.append((word, at))
        at += len(word)
    return out


def _by_quotes(line: Line) -> list[tuple[str, int]]:
    """The rest of the line cut at blanks that are neither quoted nor escaped; quotes and escapes stay."""
    text, at, out = line.logical.text, line.at, []
    while at < len(text):
        while at < len(text) and text[at].isspace():
            at += 1
        start, quote = at, ""
        while at < len(text) and (quote or not text[at].isspace()):
            char = text[at]
            if char == line.escape and quote != "'":
                at += 1
            elif char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            at += 1
        word = text[start:at]
        if at >= len(text) and _protects_nothing(word, line.escape):
            word = word[:-1]
        if word:
            out.append((word, start))
    return out


def _protects_nothing(word: str, escape: str) -> bool:
    """Whether the word ends in an escape character that has nothing to escape."""
    marks = len(word) - len(word.rstrip(escape))
    return marks % 2 == 1


def _json_words(line: Line, at: int) -> tuple[str, ...] | None:
    """The strings of a JSON array; None: it is no JSON, so it is text. Raises Wrong for other values."""
    text = line.logical.text[at:].lstrip()
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(value, str) for value in values):
        raise Wrong("a JSON array of arguments has only strings in it", at)
    return tuple(_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value) for value in values)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _list(line: Line) -> list[tuple[str, int]]:
    """A JSON array of strings, or words cut at blanks."""
    found = _json_words(line, line.at)
    if found is None:
        return _by_blanks(line)
    _no_nul(line, found)
    return [(word, line.at) for word in found]


def _no_nul(line: Line, words: tuple[str, ...]) -> None:
    if any("\0" in word for word in words):
        raise line.wrong("a NUL character can be in no path and no argument")


def _command(line: Line, at: int) -> CommandLine:
    found = _json_words(line, at)
    if found is not None:
        if line.logical.heredocs:
            raise Wrong("a JSON array of arguments has no heredoc", at)
        return CommandLine(found, shell=False)
    text = line.logical.text[at:]
    if not text:
        raise Wrong(f"{line.keyword.upper()} needs a command", 0)
    return CommandLine((text,), shell=True, heredocs=line.logical.heredocs)


def _one(line: Line) -> str:
    if not line.rest:
        raise Wrong(f"{line.keyword.upper()} needs an argument", 0)
    return line.rest


# ---------------------------------------------------------------- instructions


def _from(line: Line) -> From:
    found = _by_blanks(line)
    if len(found) not in (1, 3) or (len(found) == 3 and found[1][0].lower() != "as"):
        raise line.wrong("FROM takes IMAGE or IMAGE AS NAME", _from_hint(found))
    name = found[2][0] if len(found) == 3 else ""
    if name and (not _STAGE_NAME.match(name.lower()) or len(name) > MAX_STAGE_NAME):
        text = f"{name!r} is no name for a stage"
        raise Wrong(text, found[2][1], "a letter, then letters, digits and - _ .")
    return From(
        **line.written(),
        image=found[0][0],
        name=name.lower(),
        platform=line.flags.text("platform"),
        as_keyword=found[1][0] if name else "",
        written_name=name,
    )


def _from_hint(found: list[tuple[str, int]]) -> str:
    if len(found) == 2:
        return "FROM IMAGE AS NAME"
    return "" if found else "FROM scratch begins with nothing"


def _arg(line: Line) -> Arg:
    args = []
    for word, offset in _by_quotes(line):
        name, equals, value = word.partition("=")
        if not name:
            raise Wrong("ARG needs a name before '='", offset)
        args.append(Declared(name, value if equals else None, line.place(offset)))
    if not args:
        raise Wrong("ARG needs a name", 0, "ARG NAME or ARG NAME=DEFAULT")
    return Arg(**line.written(), args=tuple(args))


def _pairs(line: Line) -> tuple[Pair, ...]:
    keyword = line.keyword.upper()
    found = _by_quotes(line)
    if not found:
        raise Wrong(f"{keyword} needs a name and a value", 0, f"{keyword} NAME=VALUE")
    if "=" not in found[0][0]:
        parts = _BLANKS.split(line.rest, maxsplit=1)
        if len(parts) < 2:
            raise line.wrong(f"{keyword} has no value for {parts[0]!r}", f"{keyword} {parts[0]}=VALUE")
        return (Pair(parts[0], parts[1], True, line.place()),)
    pairs = []
    for word, offset in found:
        name, equals, value = word.partition("=")
        if not equals:
            raise Wrong(f"no '=' in {word!r}", offset, f"{keyword} NAME=VALUE ..., blanks in quotes")
        if not name:
            raise Wrong(f"{keyword} needs a name before '='", offset)
        pairs.append(Pair(name, value, False, line.place(offset)))
    return tuple(pairs)


def _run(line: Line) -> Run:
    command = _command(line, line.at)
    if not command.words or not command.words[0].strip():
        raise line.wrong("RUN needs a command")
    _no_nul(line, command.words)
    mounts = []
    for flag in line.flags.all("mount"):
        value = flag.value or ""
        try:
            if "$" in value:
                from_of(value)
            else:
                read_mount(value)
        except MountError as error:
            raise Wrong(str(error), flag.offset, error.hint) from None
        mounts.append(MountFlag(value, line.place(flag.offset)))
    return Run(
        **line.written(),
        command=command,
        mounts=tuple(mounts),
        network=line.flags.one_of("network", ("default", "none", "host")),
        security=line.flags.one_of("security", ("sandbox", "insecure")),
    )


class _Copying(TypedDict):
    sources: tuple[str | Heredoc, ...]
    destination: str
    chown: str
    chmod: str
    link: bool
    exclude: tuple[str, ...]


def _copying(line: Line) -> _Copying:
    keyword = line.keyword.upper()
    found = _list(line)
    if len(found) < 2:
        hint = f"{keyword} SOURCE ... DESTINATION"
        raise line.wrong(f"{keyword} needs a source and a destination", hint)
    opened = {heredoc.name: heredoc for heredoc in line.logical.heredocs}
    sources: list[str | Heredoc] = []
    for word, _offset in found[:-1]:
        heredoc = heredoc_word(word)
        sources.append(opened.get(heredoc.name, word) if heredoc else word)
    destination, offset = found[-1]
    if opened and heredoc_word(destination):
        raise Wrong(f"{keyword} cannot have a heredoc as destination", offset)
    return _Copying(
        sources=tuple(sources),
        destination=destination,
        chown=line.flags.text("chown"),
        chmod=line.flags.text("chmod"),
        link=line.flags.yes("link"),
        exclude=tuple(flag.value or "" for flag in line.flags.all("exclude")),
    )


def _copy(line: Line) -> Copy:
    if "$" in (from_ := line.flags.text("from")):
        hint = "name a stage with FROM ... AS and use the name"
        raise Wrong("no variable can be in --from", line.flags.all("from")[0].offset, hint)
    return Copy(**line.written(), **_copying(line), from_=from_, parents=line.flags.yes("parents"))


def _add(line: Line) -> Add:
    return Add(
        **line.written(),
        **_copying(line),
        keep_git_dir=line.flags.yes("keep-git-dir"),
        checksum=line.flags.text("checksum"),
        unpack=line.flags.yes_or_none("unpack"),
    )


def _volume(line: Line) -> Volume:
    found = [(word.strip(), offset) for word, offset in _list(line)]
    if not found:
        raise Wrong("VOLUME needs a path", 0)
    for word, offset in found:
        if not word:
            raise Wrong("a path of VOLUME is empty", offset)
    return Volume(**line.written(), paths=tuple(word for word, _ in found))


def _expose(line: Line) -> Expose:
    found = [word for word, _ in _by_blanks(line)]
    if not found:
        raise Wrong("EXPOSE needs a port", 0)
    return Expose(**line.written(), ports=tuple(found))


def _healthcheck(line: Line) -> Healthcheck:
    kind, at = _healthcheck_kind(line)
    if kind == "NONE":
        if line.logical.text[at:]:
            raise Wrong("HEALTHCHECK NONE takes no arguments", at)
        return Healthcheck(**line.written(), command=None)
    command = _command(line, at)
    if not command.words:
        raise Wrong("HEALTHCHECK CMD needs a command", at)
    retries = line.flags.text("retries")
    if retries and not (retries.isascii() and retries.isdecimal() and int(retries[:12]) < 1 << 31):
        offset = line.flags.all("retries")[0].offset
        raise Wrong(f"--retries is a number, 0 or more, not {retries!r}", offset)
    return Healthcheck(
        **line.written(),
        command=command,
        interval=line.flags.duration("interval"),
        timeout=line.flags.duration("timeout"),
        start_period=line.flags.duration("start-period"),
        start_interval=line.flags.duration("start-interval"),
        retries=int(retries or "0"),
    )


def _healthcheck_kind(line: Line) -> tuple[str, int]:
    match = _KEYWORD.match(line.logical.text, line.at)
    if match is None:
        raise Wrong("HEALTHCHECK needs CMD or NONE", 0)
    kind = match[1].upper()
    if kind not in ("CMD", "NONE"):
        raise Wrong(
            f"HEALTHCHECK takes CMD or NONE, not {match[1]!r}", line.at, nearest(kind, ("CMD", "NONE"))
        )
    if kind == "CMD" and match.end() == len(line.logical.text):
        raise Wrong("HEALTHCHECK CMD needs a command", line.at)
    return kind, match.end()


def _onbuild(line: Line, problems: list[Problem]) -> Onbuild | None:
    """The trigger is read as well: what is wrong with it is wrong here, not in the build that it is for."""
    text = line.logical.text
    match = _KEYWORD.match(text, line.at)
    if match is None:
        raise Wrong("ONBUILD needs an instruction", 0)
    trigger = match[1].upper()
    if trigger == "ONBUILD":
        raise Wrong("ONBUILD cannot stand in ONBUILD", line.at)
    if trigger in ("FROM", "MAINTAINER"):
        raise Wrong(f"{trigger} cannot stand in ONBUILD", line.at)
    if trigger not in INSTRUCTIONS:
        raise Wrong(f"unknown instruction {match[1]!r}", line.at, nearest(trigger, INSTRUCTIONS))
    found, at = flags.take(text, match.end(), line.escape)
    if read_instruction(Line(line.logical, match[1], found, at, line.escape), problems) is None:
        return None
    heredocs = "".join(f"\n{heredoc.written}{heredoc.name}" for heredoc in line.logical.heredocs)
    return Onbuild(**line.written(), trigger=text[line.at :] + heredocs)


def _shell(line: Line) -> Shell:
    found = _json_words(line, line.at)
    if found is None:
        raise line.wrong("SHELL takes a JSON array", 'SHELL ["/bin/sh", "-c"]')
    if not found:
        raise line.wrong("SHELL needs at least one argument")
    _no_nul(line, found)
    return Shell(**line.written(), words=found)


_READERS: dict[str, Callable[[Line], Instruction | From]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": lambda line: Cmd(**line.written(), command=_command(line, line.at)),
    "COPY": _copy,
    "ENTRYPOINT": lambda line: Entrypoint(**line.written(), command=_command(line, line.at)),
    "ENV": lambda line: Env(**line.written(), pairs=_pairs(line)),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda line: Label(**line.written(), pairs=_pairs(line)),
    "MAINTAINER": lambda line: Maintainer(**line.written(), name=_one(line)),
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": lambda line: Stopsignal(**line.written(), signal=_one(line)),
    "USER": lambda line: User(**line.written(), user=_one(line)),
    "VOLUME": _volume,
    "WORKDIR": lambda line: Workdir(**line.written(), path=_one(line)),
}
INSTRUCTIONS = (*sorted(_READERS), "ONBUILD")
