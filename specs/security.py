"""Decisions: what `security_opt` and `userns` of a container mean. Words are Docker's and Podman's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from specs.parse import Document, parse
from specs.problems import Problem, nearest
from specs.shapes import NOT_YET, Mistake, kind_of, listed, shape, text

OPTIONS = (
    "no-new-privileges",
    "seccomp=unconfined",
    "seccomp=FILE",
    "apparmor=PROFILE",
    "label=disable",
    "systempaths=unconfined",
)
_LATER = ("proc-opts", "mask", "unmask")
_APPARMOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+:/@-]{0,127}\Z")
#: Ids of a container with a range of its own, where it does not say how many.
RANGE = 65536
_MAX_RANGE = 1 << 24
_CONDITIONS = ("caps", "arches", "minKernel")
_ACTIONS = (
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
)
_COMPARISONS = tuple(f"SCMP_CMP_{word}" for word in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
_TOP = ("defaultAction", "defaultErrnoRet", "architectures", "archMap", "flags", "syscalls")
_RULE = ("names", "name", "action", "errnoRet", "args", "comment", "includes", "excludes")
_ARCHITECTURES = tuple(
    f"SCMP_ARCH_{word}"
    for word in (
        "X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC"
        " PARISC64 PPC PPC64 PPC64LE RISCV64 S390 S390X SH SHEB"
    ).split()
)
_FLAGS = ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC")

Path = tuple[str | int, ...]


# ---------------------------------------------------------------- shapes


def security_option(value: Any) -> str:
    """KEY=VALUE, or KEY:VALUE as Docker wrote it once; empty for one that says nothing."""
    found = text(value)
    key, _, setting = found.replace("=", ":", 1).partition(":")
    if key == "no-new-privileges" and setting in ("", "true", "false"):
        return "" if setting == "false" else key
    if key == "seccomp" and setting:
        return "" if setting == "builtin" else f"seccomp={setting}"
    if key == "apparmor" and setting:
        if not _APPARMOR.match(setting):
            raise Mistake(f"{setting!r} is not a name of an AppArmor profile")
        return f"apparmor={setting}"
    if (key, setting) in (("label", "disable"), ("systempaths", "unconfined")):
        return f"{key}={setting}"
    if key == "label" or key in _LATER:
        raise Mistake(f"{found!r}: {NOT_YET}", "label=disable" if key == "label" else ", ".join(OPTIONS))
    known = [word.partition("=")[0] if word.endswith(("FILE", "PROFILE")) else word for word in OPTIONS]
    raise Mistake(f"unknown security option {found!r}", nearest(key, known) or ", ".join(OPTIONS))


def userns(value: Any) -> tuple[str, int]:
    """`host`, `auto` or `auto:size=N`, as Podman has it."""
    found = text(value)
    mode, _, option = found.partition(":")
    if mode == "host" and not option:
        return "", 0
    if mode != "auto":
        raise Mistake(f"{found!r} is not known", "host, auto, auto:size=65536")
    if not option:
        return "auto", RANGE
    key, _, number = option.partition("=")
    if key != "size" or not re.fullmatch(r"[0-9]{1,9}", number):
        raise Mistake(f"cannot read {option!r}", "auto:size=65536")
    if not 1 <= int(number) <= _MAX_RANGE:
        raise Mistake(f"a range has 1 to {_MAX_RANGE} ids")
    return "auto", int(number)


SecurityOptions = Annotated[
    tuple[str, ...],
    *shape(listed(security_option), {"type": "array", "items": {"type": "string"}}, ", ".join(OPTIONS)),
]
Userns = Annotated[
    tuple[str, int],
    *shape(
        userns, {"type": "string", "pattern": r"^(host|auto(:size=[0-9]+)?)$|\$"}, "host, auto or auto:size=N"
    ),
]


# ---------------------------------------------------------------- one container


@dataclass(frozen=True, slots=True)
class Security:
    """`seccomp_profile` is a profile's text in Docker's format, canonical; empty: the default filter.
    `apparmor`: a profile's name or unconfined; empty: ours, where the machine has AppArmor."""

    no_new_privileges: bool = False
    seccomp_unconfined: bool = False
    seccomp_profile: str = ""
    apparmor: str = ""
    unmasked: bool = False


def security(
    options: tuple[str, ...],
    read: Callable[[str], tuple[str, bytes | None] | None],
    wrong: Callable[..., None],
    report: Callable[[list[Problem]], None],
) -> Security:
    """`read` gives the path in the source and the content of a file named beside the spec (None: it leaves
    the source; no content: it is not there). What is wrong within that file goes to `report`."""
    said: dict[str, str] = {}
    for number, option in enumerate(options):
        key, _, setting = option.partition("=")
        if said.get(key, setting) != setting:
            wrong(("security_opt", number), f"{key} is {said[key]!r} already", "leave one out")
        said.setdefault(key, setting)
    seccomp, profile = said.get("seccomp", ""), ""
    if seccomp and seccomp != "unconfined":
        at = ("security_opt", options.index(f"seccomp={seccomp}"))
        profile = _profile(seccomp, at, read, wrong, report)
    return Security(
        no_new_privileges="no-new-privileges" in said,
        seccomp_unconfined=seccomp == "unconfined",
        seccomp_profile=profile,
        apparmor=said.get("apparmor", ""),
        unmasked="systempaths" in said,
    )


def _profile(
    written: str,
    at: Path,
    read: Callable[[str], tuple[str, bytes | None] | None],
    wrong: Callable[..., None],
    report: Callable[[list[Problem]], None],
) -> str:
    found = read(written)
    if found is None:
        wrong(at, f"{written!r} is not a file of the source", "paths are relative to this file")
        return ""
    where, content = found
    if content is None:
        hint = "a profile is read when it is JSON, has seccomp in its path, and at most 1 MiB"
        wrong(at, f"cannot read seccomp profile {where!r}: no such file in the source", hint)
        return ""
    canonical, problems = read_profile(where, content)
    report(problems)
    return canonical


# ---------------------------------------------------------------- a profile


def read_profile(file: str, content: bytes) -> tuple[str, list[Problem]]:
    """(canonical text, problems with their places) of a seccomp profile in Docker's format. Names of calls
    that this release does not know are let through: a profile is written for many kernels."""
    try:
        source = content.decode()
        data = json.loads(source)
    except UnicodeDecodeError:
        return "", [Problem(file, 1, 1, "cannot read JSON: it is not UTF-8")]
    except json.JSONDecodeError as error:
        message = f"cannot read JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        return "", [Problem(file, error.lineno, error.colno, message)]
    except (RecursionError, ValueError):
        return "", [Problem(file, 1, 1, "cannot read JSON: nested too deeply, or a number too long")]
    if not isinstance(data, dict):
        return "", [Problem(file, 1, 1, f"a seccomp profile is an object, not {kind_of(data)}")]
    documents, problems = parse(file, content)  # JSON is YAML, which has places
    if problems:
        return "", problems
    check = _Profile(file, documents[0])
    check.run(data)
    if check.problems:
        return "", check.problems
    return json.dumps(data, sort_keys=True, separators=(",", ":")), []


class _Profile:
    def __init__(self, file: str, document: Document) -> None:
        self._file, self._document = file, document
        self.problems: list[Problem] = []

    def wrong(self, path: Path, message: str, hint: str = "", *, at_key: bool = False) -> None:
        line, column = (self._document.positions.key if at_key else self._document.positions.value)(path)
        self.problems.append(Problem(self._file, line, column, f"{_dotted(path)}: {message}", hint))

    def run(self, data: Mapping[str, Any]) -> None:
        self._keys((), data, _TOP)
        if "defaultAction" not in data:
            self.wrong((), "'defaultAction' is missing")
        else:
            self._action(("defaultAction",), data["defaultAction"])
        self._number(("defaultErrnoRet",), data.get("defaultErrnoRet"))
        if data.get("architectures") and data.get("archMap"):
            self.wrong(("archMap",), "architectures says the same; leave one out", at_key=True)
        self._architectures(("architectures",), data.get("architectures"))
        for number, flag in enumerate(self._words(("flags",), data.get("flags"))):
            if flag not in _FLAGS:
                self.wrong(("flags", number), f"{flag!r} is not known", nearest(flag, _FLAGS))
        for number, entry in enumerate(self._objects(("archMap",), data.get("archMap"))):
            path: Path = ("archMap", number)
            self._architectures((*path, "architecture"), [entry.get("architecture", "")], single=True)
            self._architectures((*path, "subArchitectures"), entry.get("subArchitectures"))
        for number, rule in enumerate(self._objects(("syscalls",), data.get("syscalls"))):
            self._rule(("syscalls", number), rule)

    def _rule(self, path: Path, rule: Mapping[str, Any]) -> None:
        self._keys(path, rule, _RULE)
        if bool(rule.get("name")) == bool(rule.get("names")):
            self.wrong(path, "write names", "a list of system calls")
        if rule.get("name") is not None and not isinstance(rule["name"], str):
            self.wrong((*path, "name"), f"write text, not {kind_of(rule['name'])}")
        self._words((*path, "names"), rule.get("names"))
        if "action" not in rule:
            self.wrong(path, "'action' is missing")
        else:
            self._action((*path, "action"), rule["action"])
        self._number((*path, "errnoRet"), rule.get("errnoRet"))
        for number, item in enumerate(self._objects((*path, "args"), rule.get("args"))):
            self._argument((*path, "args", number), item)
        for key in ("includes", "excludes"):
            self._condition((*path, key), rule.get(key))

    def _condition(self, path: Path, condition: Any) -> None:
        if condition is None:
            return
        if not isinstance(condition, dict):
            self.wrong(path, f"write an object, not {kind_of(condition)}")
            return
        self._keys(path, condition, _CONDITIONS)
        for key in ("caps", "arches"):
            self._words((*path, key), condition.get(key))
        kernel = condition.get("minKernel")
        if kernel is not None and not (isinstance(kernel, str) and re.match(r"[0-9]+\.[0-9]+", kernel)):
            self.wrong((*path, "minKernel"), f"{kernel!r} is not a version such as 4.8")

    def _argument(self, path: Path, item: Mapping[str, Any]) -> None:
        self._keys(path, item, ("index", "value", "valueTwo", "op"))
        if item.get("op") not in _COMPARISONS:
            word = item.get("op")
            hint = nearest(word, _COMPARISONS) if isinstance(word, str) else ""
            self.wrong((*path, "op"), f"{word!r} is not a comparison", hint)
        index = item.get("index")
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= 5:
            self.wrong((*path, "index"), "arguments are numbered from 0 to 5")
        for key in ("value", "valueTwo"):
            value = item.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
                self.wrong((*path, key), "write a number of 64 bits")

    def _action(self, path: Path, value: Any) -> None:
        if value == "SCMP_ACT_NOTIFY":
            self.wrong(path, "nobody here would answer the calls of SCMP_ACT_NOTIFY")
        elif value not in _ACTIONS:
            self.wrong(path, f"{value!r} is not an action", nearest(str(value), _ACTIONS))

    def _number(self, path: Path, value: Any) -> None:
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 4095
        ):
            self.wrong(path, "an errno is a number from 0 to 4095")

    def _architectures(self, path: Path, value: Any, *, single: bool = False) -> None:
        for number, word in enumerate(self._words(path, value)):
            if word not in _ARCHITECTURES:
                text = f"{word!r} is not an architecture"
                self.wrong(path if single else (*path, number), text, nearest(word, _ARCHITECTURES))

    def _keys(self, path: Path, data: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                self.wrong((*path, key), "unknown key", nearest(key, known), at_key=True)

    def _words(self, path: Path, value: Any) -> list[str]:
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.wrong(path, "write a list of words")
            return []
        return value

    def _objects(self, path: Path, value: Any) -> list[Mapping[str, Any]]:
        """Those that are: the others are problems."""
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(path, "write a list of objects")
            return []
        return value


def _dotted(path: Path) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out or "the profile"
