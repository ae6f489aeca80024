"""Effects: whether what images are to be built from is there and can be read, before a revision is taken."""

from __future__ import annotations

import os
from pathlib import Path

from runtime.build.dockerfile import parse
from runtime.build.problems import DockerfileError
from specs.desired import Desired, DesiredBuild, DesiredImage

#: bytes of a Dockerfile that is looked at
MAX_TEXT = 1 << 20


def problems(desired: Desired, tree: str) -> tuple[str, ...]:
    """Every mistake as a line file:line:column: text. `tree` is where the source's files are."""
    found: list[str] = []
    for _, image in sorted(desired.images.items()):
        if image.build is not None:
            found += _of(image, image.build, os.path.realpath(tree))
    return tuple(dict.fromkeys(found))


def _of(image: DesiredImage, build: DesiredBuild, tree: str) -> list[str]:
    at = image.place
    where = f"{at.file}:{at.line}:{at.column}: image {image.ref.familiar}: " if at else ""
    missing = [path for path in (build.context, *_directories(build)) if not os.path.isdir(path)]
    if missing:
        return [f"{where}no directory {os.path.basename(path)!r} in the source" for path in missing]
    links = [path for path in _paths(build) if not _is_inside(path, tree)]
    if links:
        return [f"{where}{os.path.relpath(path, tree)} is a link that leaves the source" for path in links]
    try:
        data = build.inline.encode() if build.inline else _read(build)
        parse(data, build.name)
    except OSError as error:
        return [f"{where}cannot read {build.name}: {(error.strerror or str(error)).lower()}"]
    except DockerfileError as error:
        return [str(problem) for problem in error.problems]
    return []


def _directories(build: DesiredBuild) -> list[str]:
    return [path for _, path in build.contexts if path.startswith("/")]


def _paths(build: DesiredBuild) -> list[str]:
    """All that is opened on the host by its path; what is in a context is looked up within it."""
    beside = [os.path.join(build.context, build.dockerfile)] if build.dockerfile.startswith("../") else []
    return [build.context, *_directories(build), *beside, *(item.file for item in build.secrets if item.file)]


def _is_inside(path: str, tree: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), tree]) == tree


def _read(build: DesiredBuild) -> bytes:
    """As a build does, `dockerfile` for `Dockerfile` as well."""
    path = Path(build.context, build.dockerfile)
    if build.dockerfile == "Dockerfile" and not path.exists() and path.with_name("dockerfile").exists():
        path = path.with_name("dockerfile")
    with path.open("rb") as file:
        return file.read(MAX_TEXT)
