"""Decisions: what in a Dockerfile builds, but hardly as it was meant.

Rules and their names: docs.docker.com/reference/build-checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from runtime.build.instructions import Dockerfile
from runtime.build.lines import Read
from runtime.build.problems import BuildWarning, Place, Problem, nearest

RULES = (
    "ConsistentInstructionCasing",
    "CopyIgnoredFile",
    "DuplicateStageName",
    "FromAsCasing",
    "FromPlatformFlagConstDisallowed",
    "InvalidBaseImagePlatform",
    "InvalidDefaultArgInFrom",
    "InvalidDefinitionDescription",
    "ExposeInvalidFormat",
    "ExposeProtoCasing",
    "JSONArgsRecommended",
    "LegacyKeyValueFormat",
    "MaintainerDeprecated",
    "MultipleInstructionsDisallowed",
    "NoEmptyContinuation",
    "RedundantTargetPlatform",
    "ReservedStageName",
    "SecretsUsedInArgOrEnv",
    "StageNameCasing",
    "UndefinedArgInFrom",
    "UndefinedVar",
    "WorkdirRelativePath",
)


def settings(check: str, place: Place, problems: list[Problem]) -> tuple[frozenset[str], bool]:
    """`skip=A,B;error=true` -> the rules not to look at ("all": none is), whether a warning is an error."""
    skip: frozenset[str] = frozenset()
    errors = False
    for part in filter(None, (part.strip() for part in check.split(";"))):
        key, _, value = (text.strip() for text in part.partition("="))
        if key == "skip":
            skip = frozenset(filter(None, (name.strip() for name in value.split(","))))
        elif key == "error" and value.lower() in ("true", "false", "1", "0"):
            errors = value.lower() in ("true", "1")
        else:
            problems.append(Problem(place, f"check is skip=RULE,... and error=true, not {part!r}"))
    for name in sorted(skip):
        if name not in RULES and name != "all":
            problems.append(Problem(place, f"no check is called {name!r}", nearest(name, RULES)))
    return skip, errors


def with_warnings(file: Dockerfile, read: Read) -> Dockerfile:
    """The file with the warnings that its text alone shows."""
    return replace(file, warnings=kept(file, _continuations(read)))


def kept(file: Dockerfile, warnings: Iterator[BuildWarning]) -> tuple[BuildWarning, ...]:
    """Those that the file does not skip, in order of place."""
    if "all" in file.skip:
        return ()
    return tuple(sorted({warning for warning in warnings if warning.rule not in file.skip}))


def _continuations(read: Read) -> Iterator[BuildWarning]:
    for logical in read.lines:
        if logical.empty_continuation:
            place = Place(logical.file, logical.empty_continuation, 1)
            yield BuildWarning(place, "NoEmptyContinuation", "an empty line continues an instruction")
