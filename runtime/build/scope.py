"""Decisions: the build arguments that a build has, and what stages see of them.

Source: Dockerfile reference, "ARG": those before the first FROM are for FROM lines; a stage sees one when it
declares it; a value given to the build wins over a default; some names need no declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.build import words
from runtime.build.instructions import Arg, Declared, Dockerfile
from runtime.build.problems import BuildWarning, DockerfileError, Place, Problem, nearest
from runtime.build.values import Value

#: Of RUN's environment when given to the build, declared or not; never part of a history or cache key.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
_PLATFORM = ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
#: What a build has without anyone giving it; a stage sees them when it declares them.
AUTOMATIC = (*("BUILD" + part for part in _PLATFORM), *("TARGET" + part for part in _PLATFORM), "TARGETSTAGE")
#: Given to a build for the builder itself.
_FOR_BUILDERS = ("BUILDKIT_", "SOURCE_DATE_EPOCH")


class Scope(Value):
    """What is the same for all stages of a build. `globals_`: what FROM sees; `given`: by the caller."""

    escape: str
    globals_: Mapping[str, str]
    given: Mapping[str, str]
    declared: frozenset[str]  # by ARG before the first FROM, with a value or without

    @property
    def proxies(self) -> tuple[tuple[str, str], ...]:
        """For RUN's environment: each in upper and in lower case, as programs look for either."""
        found = {name.upper(): value for name, value in sorted(self.given.items()) if name.upper() in PROXIES}
        return tuple(pair for name, value in found.items() for pair in ((name, value), (name.lower(), value)))


def automatic(build_platform: str, target_platform: str, target: str) -> dict[str, str]:
    """BUILDPLATFORM, TARGETARCH and so on for platforms like `linux/arm/v7`; `target`: the stage's name."""
    out: dict[str, str] = {}
    for prefix, platform in (("BUILD", build_platform), ("TARGET", target_platform)):
        system, architecture, variant = (*platform.split("/"), "", "")[:3]
        out[prefix + "PLATFORM"] = platform
        out[prefix + "OS"] = system
        out[prefix + "OSVERSION"] = ""
        out[prefix + "ARCH"] = architecture
        out[prefix + "VARIANT"] = variant
    out["TARGETSTAGE"] = target or "default"
    return out


def scope_of(
    file: Dockerfile, given: Mapping[str, str], build_platform: str, target_platform: str, target: str
) -> Scope:
    """The scope of one build. Raises DockerfileError for a default that cannot be expanded."""
    for name, value in sorted(given.items()):
        if "\0" in name + value:
            raise DockerfileError([Problem(Place(file.name), f"the build argument {name!r} has a NUL in it")])
    values = automatic(build_platform, target_platform, target)
    values.update((name, value) for name, value in given.items() if name in values)
    found = fold(file.args, values, given, file.escape)
    return Scope(file.escape, found, dict(given), frozenset(_names(file.args)))


def fold(
    args: Iterable[Arg], before: Mapping[str, str], given: Mapping[str, str], escape: str
) -> dict[str, str]:
    """The values after the ARGs before the first FROM; a later one sees those before it."""
    values = dict(before)
    for declared in (one for arg in args for one in arg.args):
        if declared.name in given:
            values[declared.name] = given[declared.name]
        elif declared.default is not None:
            values[declared.name] = expanded_default(declared, values.get, escape).text
    return values


def expanded_default(declared: Declared, lookup: words.Lookup, escape: str) -> words.Expansion:
    """Raises DockerfileError with the place of the declaration."""
    try:
        return words.examine(declared.default or "", lookup, escape)
    except words.ExpansionError as error:
        raise DockerfileError([Problem(declared.place, f"ARG {declared.name}: {error}")]) from None


def unused(file: Dockerfile, given: Mapping[str, str]) -> tuple[BuildWarning, ...]:
    """A warning for the arguments given that no ARG of the file declares."""
    inside = [one for stage in file.stages for one in stage.instructions if isinstance(one, Arg)]
    known = {*_names(file.args), *_names(inside)}
    names = [
        name
        for name in sorted(given)
        if name not in known
        and name not in AUTOMATIC
        and name.upper() not in PROXIES
        and not name.startswith(_FOR_BUILDERS)
    ]
    place = Place(file.name)
    return tuple(
        BuildWarning(
            place, "UnusedBuildArg", f"no ARG takes the build argument {name!r}{_meant(name, known)}"
        )
        for name in names
    )


def _meant(name: str, known: Iterable[str]) -> str:
    hint = nearest(name, known)
    return f" ({hint})" if hint else ""


def _names(args: Iterable[Arg]) -> Iterable[str]:
    return (declared.name for arg in args for declared in arg.args)
