"""Effects: whether what images are to be built from is there and can be read, before a revision is taken, and
which base images that takes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from agent import render
from runtime.build import graph, locks
from runtime.build.bases import platforms_of
from runtime.build.dockerfile import parse
from runtime.build.graph import Graph
from runtime.build.instructions import Dockerfile
from runtime.build.problems import DockerfileError
from runtime.images.manifests import host_platform
from specs.desired import Desired, DesiredBuild, DesiredImage
from specs.pulls import local_names
from specs.values import ImageRef

#: bytes of a Dockerfile that is looked at
MAX_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class Bases:
    """The tags that builds take from registries, by canonical reference, and where each is written first
    (file:line:column). With problems, which are lines of the same form, not all of them are known."""

    refs: dict[str, ImageRef] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def problems(desired: Desired, tree: str) -> tuple[str, ...]:
    """Every mistake as a line file:line:column: text. `tree` is where the source's files are."""
    found: list[str] = []
    for _, image in sorted(desired.images.items()):
        if image.build is not None:
            found += _of(image, image.build, os.path.realpath(tree))
    return tuple(dict.fromkeys(found))


def bases(desired: Desired) -> Bases:
    """Of everything that is built, whether it is locked or not.

    What only an ONBUILD of a base asks for is not among them: the base would have to be pulled to know.
    """
    local = local_names(desired.images.values())
    refs, places, wrong = dict[str, ImageRef](), dict[str, str](), list[str]()
    for _, image in sorted(desired.images.items()):
        try:
            needed = _needed(image)
        except OSError as error:
            name = image.build.name if image.build else ""
            wrong.append(f"cannot read {name}: {(error.strerror or str(error)).lower()}")
            continue
        except DockerfileError as error:
            wrong += map(str, error.problems)
            continue
        for item in needed:
            ref = locks.lockable(item.name)
            if ref is not None and str(ref) not in local:
                refs.setdefault(str(ref), ref)
                places.setdefault(str(ref), str(item.place))
    return Bases(dict(sorted(refs.items())), places, tuple(dict.fromkeys(wrong)))


def _needed(image: DesiredImage) -> list[locks.Needed]:
    """The images that a build needs; none where it is no build. Raises DockerfileError, OSError."""
    if image.build is None:
        return []
    contexts = dict(image.build.contexts)
    graphs = _graphs(image, _parsed(image.build))
    return [item for planned, platform in graphs for item in locks.needed(planned, platform, contexts)]


def _graphs(image: DesiredImage, file: Dockerfile) -> list[tuple[Graph, str]]:
    """What is to be built, for each platform. Raises DockerfileError."""
    request, host = render.build_request(image), str(host_platform())
    names, found = request.contexts.keys(), []
    for platform in platforms_of(request.platforms):
        more = {"build_platform": host, "target_platform": platform, "target": request.target}
        found.append((graph.plan(file, **more, args=request.args, contexts=names), platform))
    return found


def _check_lock(image: DesiredImage, build: DesiredBuild, file: Dockerfile) -> None:
    """Raises DockerfileError with the place of every base that the lock file lacks."""
    if build.locked is not None:
        for planned, platform in _graphs(image, file):
            locks.check(planned, platform, dict(build.contexts), dict(build.locked))


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
        _check_lock(image, build, _parsed(build))
    except OSError as error:
        return [f"{where}cannot read {build.name}: {(error.strerror or str(error)).lower()}"]
    except DockerfileError as error:
        return [str(problem) for problem in error.problems]
    return []


def _parsed(build: DesiredBuild) -> Dockerfile:
    return parse(build.inline.encode() if build.inline else _read(build), build.name)


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
