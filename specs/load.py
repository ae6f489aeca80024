"""Decisions: one document's plain data becomes a SpecFile, or problems that point at their place."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from specs.documents import COMPOSE_SERVICE, COMPOSE_TOP, ELSEWHERE, KINDS, SpecFile
from specs.interpolate import interpolate_tree
from specs.parse import Document
from specs.policies import Model
from specs.positions import Path
from specs.problems import Problem, nearest
from specs.salvage import salvage
from specs.shapes import NOT_YET, Mistakes, kind_of

_MAX_PROBLEMS = 1000  # of one document


@dataclass(frozen=True, slots=True)
class Loaded:
    """`spec` is all that could be read. Objects in `broken`, by (kind, name), lack their wrong fields."""

    spec: SpecFile | None
    problems: list[Problem]
    broken: frozenset[tuple[str, str]]


def load(document: Document, variables: Mapping[str, str]) -> Loaded:
    """Replace variables, validate; every problem of the document by itself."""
    problems: list[Problem] = []
    wrong: list[Path] = []

    def report(path: Path, text: str, hint: str) -> None:
        problems.append(document.problem(path, f"{dotted(path)}: {text}", hint))
        wrong.append(path)

    own = [key for key in document.data if not key.startswith("x-")]
    data = interpolate_tree({key: document.data[key] for key in own}, variables, report)
    places = {(problem.line, problem.column) for problem in problems}
    spec: SpecFile | None
    try:
        spec = SpecFile.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=True)
        if len(errors) > _MAX_PROBLEMS:
            problems.append(
                document.problem((), f"the file: {len(errors)} problems, here are {_MAX_PROBLEMS}")
            )
        for details in errors[:_MAX_PROBLEMS]:
            problems += (p for p in _problems(document, data, details) if (p.line, p.column) not in places)
            wrong += _wrong_paths(data, details)
        spec = salvage(data, wrong)
    if spec is not None:
        problems += _refused(document, spec)
    broken = frozenset((str(path[0]), str(path[1])) for path in wrong if len(path) > 1)
    return Loaded(spec, problems, broken)


def _wrong_paths(data: Any, details: Any) -> list[Path]:
    """What has to go so that the rest is valid; a missing key takes its table with it."""
    path, _ = _path(data, details["loc"])
    if details["type"] == "missing" and not (path[0] == "container" and len(path) == 3):
        return [path[:-1]]
    return [path]


def dotted(path: Path) -> str:
    """("container", "web", "ports", 0) -> container.web.ports[0]."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


# ---------------------------------------------------------------- pydantic's errors as problems


def _problems(document: Document, data: Any, details: Any) -> list[Problem]:
    path, at_key = _path(data, details["loc"])
    original = details.get("ctx", {}).get("error")
    if details["type"] == "missing":
        return [document.problem(path[:-1], f"{dotted(path[:-1])}: {path[-1]!r} is missing", at_key=True)]
    if details["type"] == "extra_forbidden":
        if (len(path) == 1 and path[0] in COMPOSE_TOP) or (
            len(path) == 3 and path[0] == "container" and path[2] in COMPOSE_SERVICE
        ):
            hint = ELSEWHERE.get(str(path[-1]), "")
            return [document.problem(path, f"{dotted(path)}: {NOT_YET}", hint, at_key=True)]
        where = dotted(path[:-1]) or "the file"
        hint = _unknown_hint(path, details.get("input"))
        return [document.problem(path, f"{where}: unknown key {str(path[-1])!r}", hint, at_key=True)]
    if isinstance(original, Mistakes):
        return [_mistake(document, path, mistake, at_key) for mistake in original.mistakes]
    if original is not None:
        return [_mistake(document, path, original, at_key)]
    return [document.problem(path, f"{dotted(path)}: {_wording(details)}", at_key=at_key)]


def _mistake(document: Document, path: Path, mistake: Exception, at_key: bool) -> Problem:
    inner = getattr(mistake, "path", ())
    text = f"{dotted((*path, *inner))}: {mistake}"
    return document.problem((*path, *inner), text, getattr(mistake, "hint", ""), at_key=at_key)


def _path(data: Any, loc: tuple[str | int, ...]) -> tuple[Path, bool]:
    """Without pydantic's union tags; (path, whether the key itself is wrong)."""
    out: list[str | int] = []
    at_key = False
    for part in loc:
        if part == "[key]":
            at_key = True
        elif not (isinstance(part, str) and part.startswith("@") and not _has(data, part)):
            if isinstance(part, str) and isinstance(data, list) and part in data:
                part = data.index(part)  # a list that stands for a table
            out.append(part)
            data = data[part] if _has(data, part) else None
    return tuple(out), at_key


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and part < len(data)


def _wording(details: Any) -> str:
    kind = details["type"]
    given = kind_of(details.get("input"))
    if kind in ("model_type", "model_attributes_type", "dict_type", "dataclass_type"):
        return f"write a table, not {given}"
    if kind in ("list_type", "tuple_type"):
        return f"write a list, not {given}"
    message = str(details["msg"])
    return message[:1].lower() + message[1:]


def _unknown_hint(path: Path, value: Any) -> str:
    word = str(path[-1])
    known = _known_keys(path[:-1])
    if word in ELSEWHERE and (len(path) == 1 or path[0] in ("container", "network")):
        return ELSEWHERE[word]
    near = nearest(word, known)
    if near or len(path) > 1:
        return near
    if isinstance(value, dict) and "image" in value:
        return f"write [container.{word}]"
    return f"known are project, {', '.join(KINDS)}; a file that is no spec is excluded in .steadignore"


def _known_keys(path: Path) -> list[str]:
    model: type[BaseModel] | None = SpecFile
    through = False
    for part in path:
        if through:
            through = False
            continue
        field = None if model is None else _field(model, str(part))
        if field is None:
            return []
        models = list(_models(field))
        model = models[0] if models else None
        through = any(origin in (dict, list) for origin in _origins(field))
    return [] if model is None else [f.alias or n for n, f in model.model_fields.items()]


def _field(model: type[BaseModel], key: str) -> Any:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field.annotation
    return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _origins(annotation: Any) -> Iterator[Any]:
    """dict or list when the annotation, without Annotated and None, is one."""
    origin = typing.get_origin(annotation)
    if origin in (dict, list):
        yield origin
        return
    for inner in typing.get_args(annotation):
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            yield from _origins(inner)


# ---------------------------------------------------------------- what is not supported yet


def _refused(document: Document, spec: SpecFile) -> list[Problem]:
    return [
        document.problem(path, f"{dotted(path)}: {NOT_YET}", at_key=True) for path in _refused_paths(spec, ())
    ]


def _refused_paths(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, Model):
        refused = {key[0] for key in value.refused()}
        for key in sorted(refused):
            yield (*path, key)
        for name in value.model_fields_set:
            key = type(value).model_fields[name].alias or name
            child = getattr(value, name)
            if key not in refused and isinstance(child, Model | dict | list):
                yield from _refused_paths(child, (*path, key))
    elif isinstance(value, dict):
        for key, child in value.items():
            if isinstance(child, Model | list):
                yield from _refused_paths(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            if isinstance(child, Model):
                yield from _refused_paths(child, (*path, index))
