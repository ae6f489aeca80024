"""Decisions: which names go and whether their image goes, as `docker rmi` and `docker image prune` have it.

A name goes at once. An image goes with its last name, unless a container or an image made from it needs it.
By its id it goes when all its names are one: a tag, and the digests of the same repository that it was pulled
by. One difference: docker deletes an image that only stopped containers use when it is forced; here it stays,
without a name, since a stopped container may be started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runtime.faults import Fault
from runtime.images.listing import Listed

SHOWN = 5  # users that an error names


@dataclass(frozen=True, slots=True)
class Removal:
    """`untagged` are names that go; `deleted`: the image goes as well."""

    image: Listed
    untagged: tuple[str, ...]
    deleted: bool


def repository(name: str) -> str:
    """Of `host/repository:tag` and `host/repository@digest`: `host/repository`."""
    return name.partition("@")[0] if "@" in name else name.rpartition(":")[0]


def is_one(names: Iterable[str]) -> bool:
    """Whether these are at most one tag, with digests of its repository only."""
    given = tuple(names)
    return len({repository(name) for name in given}) < 2 and sum("@" not in name for name in given) < 2


def remove(image: Listed, called: str, *, subject: str, force: bool = False) -> Removal:
    """What removing `image` does; `called` is the name it was called by, empty for its id.

    Fault image-in-use or request-invalid when it must not be, or must be forced. `subject` is for the fault.
    """
    if called:
        return _by_name(image, called, subject, force)
    if image.children:
        raise _in_use(subject, f"the image {_short(image.children)} was made from it", "remove that first")
    if image.containers:
        raise _in_use(subject, f"used by {_some(image.containers)}", "remove its containers first")
    if not force and not is_one(image.names):
        cause = f"it has the names {', '.join(image.tags or image.digests)}"
        raise Fault("request-invalid", "remove image", subject, cause, "remove it by name, or use --force")
    return Removal(image, image.names, True)


def _by_name(image: Listed, called: str, subject: str, force: bool) -> Removal:
    if image.containers and not force and is_one(image.names):
        hint = "remove its containers first"
        raise _in_use(subject, f"used by {_some(image.containers)}", hint)
    gone = [called]
    rest = [name for name in image.names if name != called]
    own = [name for name in rest if repository(name) == repository(called)]
    if "@" not in called and all("@" in name for name in own):
        gone += own  # digests are there for the sake of the tag
        rest = [name for name in rest if name not in own]
    return Removal(image, tuple(gone), not rest and not image.busy)


def orphan(image: Listed) -> bool:
    """Whether nothing means an image any more, once the one that was made from it is gone."""
    return not image.names and not image.busy


def prune(image: Listed, *, everything: bool, wanted: Callable[[Listed], bool]) -> Removal | None:
    """What `image prune` does to an image: without a tag it goes, with `everything` every unused one does."""
    if image.busy or (image.tags and not everything) or not wanted(image):
        return None
    return Removal(image, image.names, True)


def _in_use(subject: str, cause: str, hint: str) -> Fault:
    return Fault("image-in-use", "remove image", subject, cause, hint)


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _short(ids: tuple[str, ...]) -> str:
    return _some(tuple(id.removeprefix("sha256:")[:12] for id in ids))
