"""Effects: the sources that the settings name: what each yields, and its last good revisions on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from agent.desired import Resolved, Shelf, Surroundings, resolve
from agent.secrets import Signature, signature
from agent.settings import Source
from agent.sources.directory import DirectorySource
from agent.sources.git import GitSettings, GitSource
from agent.sources.revision import Revision
from agent.view import SourceView
from runtime.paths import Paths
from specs.desired import Desired

#: seconds after which it is noted once more that a source is converged
NOTED = 300.0


class AnySource(Protocol):
    """What the loop needs of a source."""

    @property
    def location(self) -> str: ...
    def accept(self, revision: Revision) -> None: ...
    def watch(self, directories: Collection[str]) -> None: ...
    def abort(self) -> None: ...
    def revisions(self, stop: asyncio.Event) -> Any: ...


def open_source(settings: Source, paths: Paths) -> AnySource:
    if settings.directory:
        return DirectorySource(Path(settings.directory), settings.path)
    chosen = GitSettings(
        url=settings.git,
        ref=settings.ref,
        path=settings.path,
        interval=settings.interval,
        ssh_key=settings.ssh_key,
        token_file=settings.token_file,
    )
    return GitSource(chosen, paths.sources / settings.label)


class Feed:
    """One source with its last good revision and what is shown of it."""

    def __init__(self, settings: Source, paths: Paths, around: Surroundings) -> None:
        self.name = settings.label
        self.source = open_source(settings, paths)
        self.shelf = Shelf(paths, self.name)
        self.around = replace(around, variables=settings.variables, profiles=tuple(settings.profiles))
        self.desired: Desired | None = None
        self.taken: Revision | None = None  # what `desired` is of
        self.secrets: Signature | None = None  # as they were when `taken` was resolved
        self.waiting: Revision | None = None  # the newest one, where it is held back
        self.lock = asyncio.Lock()  # one revision at a time is taken
        kind = "directory" if settings.directory else "git"
        self._noted = self.shelf.converged_at()
        self.view = SourceView(self.name, kind, self.source.location, last_success=self._noted)

    def resolve(self, revision: Revision, *, kept: bool = False) -> Resolved:
        return resolve(self.name, revision, self.around, kept=kept)

    def has(self, revision: Revision) -> bool:
        """Whether it is in force, with the same files of the same commit."""
        taken = self.taken
        return taken is not None and (taken.id, taken.tree) == (revision.id, revision.tree)

    def is_other(self) -> bool:
        """Whether files of its secrets, which no source watches, changed since this was asked last."""
        if self.desired is None or self.taken is None or not self.desired.files:
            return False
        last, self.secrets = self.secrets, signature(self.desired, self.taken, self.around.keys)
        return bool(self.secrets) and self.secrets != last

    def judged(self, now: float, *, converged: bool) -> None:
        """What a look has shown. When it was well is kept over the end of this process: now and then, and as
        soon as it is not any more."""
        if converged:
            self.view = replace(self.view, last_success=now)
        last = self.view.last_success
        if last != self._noted and not (converged and 0 <= last - self._noted < NOTED):
            self._noted = last
            self.shelf.note_converged(last)

    def previous(self) -> Desired | None:
        """What was in force before what the shelf has."""
        revision = self.shelf.previous()
        return None if revision is None else self.resolve(revision, kept=True).desired


def contexts(desired: Desired) -> set[str]:
    """The directories that images are built from."""
    builds = [image.build for image in desired.images.values() if image.build is not None]
    named = {path for build in builds for _, path in build.contexts if path.startswith("/")}
    return {build.context for build in builds} | named
