"""Decisions: the `secrets` and `configs` of containers -> what each one is made of and where it appears.

Nothing here knows the bytes of a file: the agent reads them, and fills in a digest for each.
"""

from __future__ import annotations

import posixpath

from specs.declared import Declared, Index
from specs.desired import DesiredFile, FileMount
from specs.documents import Config, Container, Secret
from specs.documents import FileMount as FileMountItem
from specs.limits import Wrong
from specs.positions import Path
from specs.problems import Problem
from specs.values import may_be_covered

KINDS = ("secret", "config")
_PLACE = {"secret": "/run/secrets", "config": "/"}
_MAX_ID = 2**32 - 2
DEFAULT_MODE = 0o444


def files(index: Index, problems: list[Problem]) -> dict[str, DesiredFile]:
    """Every secret and config of the source by `kind full/name`."""
    found: dict[str, DesiredFile] = {}
    for kind in KINDS:
        for declared in index.all(kind):
            one = _file(declared, problems)
            if one is not None:
                found[f"{kind} {declared.full}"] = one
    return found


def _file(declared: Declared, problems: list[Problem]) -> DesiredFile | None:
    model = declared.model
    if not isinstance(model, Secret | Config):
        return None
    ways = [key for key in ("file", "environment", "content") if getattr(model, key, None) is not None]
    ways += ["external"] if model.external else []
    if len(ways) != 1:
        known = "file, environment" if declared.kind == "secret" else "file, content, environment"
        text = f"write one of {known}, external" + (f", not {' and '.join(ways)}" if ways else "")
        problems.append(declared.problem((), text))
        return None
    if model.name is not None and not model.external:
        text = "a name of its own is for external ones"
        problems.append(declared.problem(("name",), text, "leave it out", at_key=True))
    file, external = "", ""
    content: str | None = None
    if model.file is not None:
        file = posixpath.normpath(posixpath.join(posixpath.dirname(declared.document.file), model.file))
        if model.file.startswith("/") or file == ".." or file.startswith("../"):
            text = f"{model.file!r} is not in the source"
            problems.append(declared.problem(("file",), text))
    elif model.environment is not None:
        content = declared.variables.get(model.environment)
        if content is None:
            text = f"variable {model.environment!r} of the source is not set"
            problems.append(declared.problem(("environment",), text))
    elif model.external:
        external = model.name or declared.name
        if external in (".", "..") or "/" in external:
            problems.append(declared.problem(("name",), f"{external!r} is not the name of a file"))
    else:
        content = getattr(model, "content", None)
    place = declared.place
    if model.file is not None:
        at = declared.problem(("file",), "")
        place = type(place)(at.file, at.line, at.column)
    return DesiredFile(declared.kind, declared.full, file, content, external, place)


def file_mounts(
    declared: Declared, model: Container, index: Index, taken: set[str], wrong: Wrong
) -> tuple[FileMount, ...]:
    """In the order in which they are written, secrets first. `taken`: where something else is mounted."""
    found: list[FileMount] = []
    for kind in KINDS:
        for number, item in enumerate(getattr(model, f"{kind}s") or ()):
            path = (f"{kind}s", number)
            one = _mount(kind, path, item, declared, index, wrong)
            if one is None:
                continue
            if one.target in taken:
                wrong(path, f"something is mounted on {one.target!r} already")
            taken.add(one.target)
            found.append(one)
    return tuple(found)


def _mount(
    kind: str, path: Path, item: str | FileMountItem, declared: Declared, index: Index, wrong: Wrong
) -> FileMount | None:
    long = isinstance(item, FileMountItem)
    name = item.source if isinstance(item, FileMountItem) else item
    full = index.full_name(declared.project, name)
    if index.get(kind, full) is None:
        at = (*path, "source") if long else path
        wrong(at, f"no {kind} {name!r}", index.hint(kind, declared.project, name))
        return None
    given = item if isinstance(item, FileMountItem) else FileMountItem(source=name)
    target = posixpath.normpath(posixpath.join(_PLACE[kind], given.target or name.rpartition("/")[2]))
    if ".." in (given.target or "").split("/") or target == "/":
        wrong((*path, "target"), f"cannot use target {given.target!r}: write the path of a file, without ..")
    elif not may_be_covered(target):
        wrong((*path, "target"), f"cannot use target {given.target!r}: it is inside of /proc")
    return FileMount(
        kind,
        full,
        target,
        _id((*path, "uid"), given.uid, wrong),
        _id((*path, "gid"), given.gid, wrong),
        DEFAULT_MODE if given.mode is None else given.mode & 0o777,
    )


def _id(path: Path, written: str | None, wrong: Wrong) -> int:
    if written is None:
        return 0
    if not (written.isascii() and written.isdigit() and int(written) <= _MAX_ID):
        wrong(path, f"cannot use {written!r}: write a number", "the node does not know the image's names")
        return 0
    return int(written)
