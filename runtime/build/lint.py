"""Decisions: what in a Dockerfile builds, but hardly as it was meant.

Rules and their names: docs.docker.com/reference/build-checks. Those here need the text only; `graph` and
`stage` have the ones that need values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from runtime.build.instructions import Arg, Dockerfile, Env, From, Instruction, Label, Maintainer
from runtime.build.lines import Read
from runtime.build.problems import BuildWarning, DockerfileError, Place, Problem
from runtime.build.values import replace

_RESERVED = ("context", "scratch")
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|passwd|pword|secret|token)(?:_|$)", re.IGNORECASE
)
_NOT_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


def settings(check: str, place: Place, problems: list[Problem]) -> tuple[frozenset[str], bool]:
    """`skip=A,B;error=true` -> the rules not to look at ("all": none is), whether a warning is an error.

    Names that are no rule are passed over: other builders have more.
    """
    skip: frozenset[str] = frozenset()
    errors = False
    for part in filter(None, (part.strip() for part in check.split(";"))):
        key, _, value = (text.strip() for text in part.partition("="))
        if key == "skip":
            skip = frozenset(filter(None, (name.strip() for name in value.split(","))))
        elif key == "error" and value.lower() in ("true", "false", "1", "0"):
            errors = value.lower() in ("true", "1")
        elif key != "experimental":
            problems.append(Problem(place, f"check is skip=RULE,... and error=true, not {part!r}"))
    return skip, errors


def kept(file: Dockerfile, warnings: Iterable[BuildWarning]) -> tuple[BuildWarning, ...]:
    """Those that the file does not skip, each once, in order of place."""
    if "all" in file.skip:
        return ()
    return tuple(sorted({warning for warning in warnings if warning.rule not in file.skip}))


def refuse(file: Dockerfile, warnings: Iterable[BuildWarning]) -> None:
    """Raise DockerfileError for the warnings when the file says `# check=error=true`."""
    problems = [Problem(warning.place, f"{warning.rule}: {warning.text}") for warning in kept(file, warnings)]
    if file.warnings_are_errors and problems:
        raise DockerfileError(problems)


def with_warnings(file: Dockerfile, read: Read) -> Dockerfile:
    """The file with the warnings that its text alone shows."""
    found = (*_continuations(read), *_casing(file), *_stage_names(file), *_instructions(file))
    return replace(file, warnings=kept(file, found))


def _continuations(read: Read) -> Iterator[BuildWarning]:
    for logical in read.lines:
        if logical.empty_continuation:
            place = Place(logical.file, logical.empty_continuation, 1)
            yield BuildWarning(place, "NoEmptyContinuation", "an empty line continues an instruction")


def _all(file: Dockerfile) -> Iterator[From | Instruction]:
    for stage in file.stages:
        yield stage.base
        yield from stage.instructions


def _casing(file: Dockerfile) -> Iterator[BuildWarning]:
    """Every keyword in the case of most of them; ARGs before FROM do not count, as in BuildKit."""
    keywords = [one.keyword for one in _all(file)]
    lower = sum(keyword.islower() for keyword in keywords) > sum(keyword.isupper() for keyword in keywords)
    for one in _all(file):
        if not (one.keyword.islower() if lower else one.keyword.isupper()):
            case = "lower case" if lower else "upper case"
            text = f"{one.keyword!r} should be in {case} as most instructions are"
            yield BuildWarning(one.place, "ConsistentInstructionCasing", text)


def _stage_names(file: Dockerfile) -> Iterator[BuildWarning]:
    seen: set[str] = set()
    for base in (stage.base for stage in file.stages if stage.base.name):
        if base.written_name != base.name:
            text = f"the stage name {base.written_name!r} should be lower case"
            yield BuildWarning(base.place, "StageNameCasing", text)
        if base.as_keyword.isupper() != base.keyword.isupper():
            text = f"{base.as_keyword!r} is not in the case of {base.keyword!r}"
            yield BuildWarning(base.place, "FromAsCasing", text)
        if base.name in _RESERVED:
            text = f"{base.name!r} is reserved and should not name a stage"
            yield BuildWarning(base.place, "ReservedStageName", text)
        if base.name in seen:
            text = f"a stage above is called {base.name!r} already"
            yield BuildWarning(base.place, "DuplicateStageName", text)
        seen.add(base.name)


def _instructions(file: Dockerfile) -> Iterator[BuildWarning]:
    for one in _all(file):
        if isinstance(one, Maintainer):
            text = "write LABEL org.opencontainers.image.authors= instead of MAINTAINER"
            yield BuildWarning(one.place, "MaintainerDeprecated", text)
        elif isinstance(one, Env | Label):
            keyword = one.keyword.upper()
            if any(pair.legacy for pair in one.pairs):
                text = f"write {keyword} NAME=VALUE instead of {keyword} NAME VALUE"
                yield BuildWarning(one.place, "LegacyKeyValueFormat", text)
        if isinstance(one, Env | Arg):
            yield from _secrets(one)


def _secrets(one: Env | Arg) -> Iterator[BuildWarning]:
    names = [pair.key for pair in one.pairs] if isinstance(one, Env) else [arg.name for arg in one.args]
    for name in names:
        if _SECRET.search(name) and not _NOT_SECRET.search(name):
            text = (
                f"{one.keyword.upper()} {name!r} stays in the image: give secrets by RUN --mount=type=secret"
            )
            yield BuildWarning(one.place, "SecretsUsedInArgOrEnv", text)
