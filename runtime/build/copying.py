"""Effects: the step of a COPY or ADD: its sources summed for the key, and copied when it is done.

ADD tells archives by their content, and unpacks those of contexts; files of URLs are unpacked when asked for.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.build import places, remote, selection, tree
from runtime.build.copy import CopyError, Copying
from runtime.build.effects import CopyEffect
from runtime.build.failure import StepFailed
from runtime.build.keys import copy_key
from runtime.build.modes import ModeChange, parse_mode
from runtime.build.request import BuildRequest
from runtime.build.selection import Picked, SelectionError, Source
from runtime.build.sources import Sources
from runtime.build.stages import Made, Task, owner_in
from runtime.build.workspace import DIRECTORY, Workspace
from runtime.faults import Fault
from runtime.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.build.fetch import Fetcher, Known

#: Permission bits of a file that came from a URL, of one that the Dockerfile has.
FETCHED, INLINE = 0o600, 0o644


@dataclass(slots=True)
class _Plan:
    """A source as it was found: `picked` in `source`, or a URL or repository of which only the sum is
    known."""

    text: str
    sums: list[list[str]]
    source: Source | None = None
    picked: Sequence[Picked] | None = None
    repository: remote.Repository | None = None
    commit: str = ""
    known: Known | None = None
    file: int = -1


@dataclass(slots=True)
class CopyStep:
    """One COPY or ADD over `made`. `chain` are the layers that it copies from, None: `source`, a context."""

    paths: Paths
    work: Workspace
    sources: Sources
    fetcher: Callable[[], Fetcher]
    request: BuildRequest
    made: Made
    effect: CopyEffect
    chain: tuple[str, ...] | None
    source: Source | None
    _changed: bool = False
    _plans: list[_Plan] = field(default_factory=list)

    def task(self) -> Task:
        """Faults build-failed (a source that is not there), and those of fetching."""
        try:
            mode = parse_mode(self.effect.chmod) if self.effect.chmod else None
            for text in self.effect.sources:
                self._plans.append(self._plan(text))
        except (SelectionError, ValueError) as error:
            self._drop()
            raise self._failed(str(error)) from error
        except BaseException:
            self._drop()
            raise
        key = copy_key(self.effect, self.made.top, [plan.sums for plan in self._plans], self.request.epoch)
        return Task(key, lambda _vertex: self._do(mode), lambda: not self._changed, self._drop)

    def _drop(self) -> None:
        """Close what was fetched."""
        for plan in self._plans:
            if plan.file >= 0:
                os.close(plan.file)
                plan.file = -1

    def _failed(self, cause: str) -> StepFailed:
        return StepFailed(self.request.label, self.effect.place, self.effect.title, cause)

    # ------------------------------------------------------------ what is copied

    def _plan(self, text: str) -> _Plan:
        effect = self.effect
        if effect.add and (repository := remote.repository(text)) is not None:
            if repository.local:
                raise SelectionError(f"{text} is a repository of this machine, which no Dockerfile may name")
            from runtime.build import git

            commit = git.Git(self.paths.root / DIRECTORY / "git").commit(repository)
            if effect.checksum and not commit.startswith(effect.checksum):
                cause = f"its commit is {commit}, not {effect.checksum}"
                raise Fault("digest-mismatch", "fetch", repository.shown, cause)
            sums = [[repository.url, commit, repository.directory, str(effect.keep_git_dir)]]
            return _Plan(text, sums, repository=repository, commit=commit)
        if effect.add and remote.is_url(text):
            known, file = self.fetcher().look(text, effect.checksum)
            if not known.name and effect.destination.endswith("/"):
                raise SelectionError(
                    f"{remote.shown(text)} ends without a name; name a file, not a directory"
                )
            return _Plan(text, [[known.name, known.sum, str(known.modified)]], known=known, file=file)
        if self.chain is not None:
            sums = self.sources.summed(
                self.chain, effect.from_ or "the stage", text, effect.parents, effect.exclude
            )
            return _Plan(text, sums)
        assert self.source is not None
        picked, sums = self.sources.picked(self.source, text, effect.parents, effect.exclude)
        return _Plan(text, sums, self.source, picked)

    # ------------------------------------------------------------ doing it

    def _do(self, mode: ModeChange | None) -> Path:
        effect = self.effect
        owner, place = None, None
        sole = self._sole_directory()
        with self.work.draft(self.made.chain, alone=effect.link) as draft:
            if effect.chown:
                base = self.work.base(self.made.chain) if effect.link else draft.root
                owner = owner_in(base, effect.chown)
            try:
                if sole is not None:
                    place = self._copying(draft.root, owner or (0, 0), mode).empty(effect.destination)
                if place is None:
                    self._all(draft.root, owner, mode)
            except (CopyError, SelectionError) as error:
                raise self._failed(str(error)) from error
        if sole is not None and place is not None:
            self._beside(draft.upper, place, sole, self._copying(-1, owner or (0, 0), mode))
        return draft.upper

    def _all(self, root: int, owner: tuple[int, int] | None, mode: ModeChange | None) -> None:
        for plan in self._plans:
            self._copy(root, plan, owner, mode)
        if self.effect.files:
            self._inline(root, owner, mode)

    def _sole_directory(self) -> tuple[Source, Picked] | None:
        """The one directory of a context that is all there is to copy."""
        if len(self._plans) != 1 or self.effect.files:
            return None
        plan = self._plans[0]
        if plan.source is None or plan.picked is None or len(plan.picked) != 1:
            return None
        item = plan.picked[0]
        return (plan.source, item) if item.is_directory and not item.keeps_path else None

    def _beside(self, upper: Path, place: str, sole: tuple[Source, Picked], copying: Copying) -> None:
        """Copy to a directory in which nothing is, straight into the layer: without an overlay each file
        costs the kernel a third less."""
        copying.root = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            copying.contents(*sole, place)
        except CopyError as error:
            raise self._failed(str(error)) from error
        finally:
            os.close(copying.root)
        self._changed |= copying.changed

    def _copying(self, root: int, owner: tuple[int, int] | None, mode: ModeChange | None) -> Copying:
        return Copying(root, owner, mode, replace=self.effect.link)

    def _copy(self, root: int, plan: _Plan, owner: tuple[int, int] | None, mode: ModeChange | None) -> None:
        effect = self.effect
        if plan.repository is not None:
            from runtime.build import git

            mirrors = git.Git(self.paths.root / DIRECTORY / "git")
            place = mirrors.tree(self.work, plan.repository, plan.commit, keep_git_dir=effect.keep_git_dir)
            self._tree(root, place, owner or (0, 0), mode)
        elif plan.known is not None:
            self._fetched(root, plan, owner or (0, 0), mode)
        elif plan.source is not None and plan.picked is not None:
            self._local(root, plan.source, plan.picked, owner or (0, 0), mode)
        else:
            assert self.chain is not None
            source = self.sources.layers(self.chain, effect.from_ or "the stage")
            picked = selection.pick(source, plan.text, parents=effect.parents, exclude=effect.exclude)
            self._into(self._copying(root, owner, mode), source, picked)

    def _into(self, copying: Copying, source: Source, picked: Sequence[Picked]) -> None:
        destination = self.effect.destination
        several = len(picked) > 1 or len(self._plans) + len(self.effect.files) > 1
        if several and not destination.endswith("/") and not all(item.is_directory for item in picked):
            # One file would take the other's place, without a word.
            there = places.status(copying.root, places.resolve(copying.root, destination))
            if not places.is_directory(there):
                raise CopyError(
                    f"there are several sources, and {destination} is no directory (end it with a slash)"
                )
        copying.into(destination, source, picked)
        self._changed |= copying.changed

    def _local(
        self,
        root: int,
        source: Source,
        picked: Sequence[Picked],
        owner: tuple[int, int],
        mode: ModeChange | None,
    ) -> None:
        """What comes from a context is root's. Archives, for ADD, are unpacked as they are."""
        plain: list[Picked] = []
        for item in picked:
            fd = self._archive(source, item)
            if fd < 0:
                plain.append(item)
                continue
            try:
                self._unpacked(root, fd, item.start)
            finally:
                os.close(fd)
        self._into(self._copying(root, owner, mode), source, plain)

    def _archive(self, source: Source, item: Picked) -> int:
        """The open file where ADD is to unpack it; -1 otherwise."""
        if not self.effect.add or self.effect.unpack is False or not stat.S_ISREG(item.status.st_mode):
            return -1
        parent, _, name = item.start.rpartition("/")
        with places.Walkway(source.root, parent) as way:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=way.at(""))
        if _is_archive(fd):
            return fd
        os.close(fd)
        return -1

    def _unpacked(self, root: int, fd: int, subject: str) -> None:
        """Owners and modes are the archive's, as BuildKit and buildah have it: --chown is for the directories
        that are made for it."""
        from runtime.build.archive import unpack

        owner = owner_in(root, self.effect.chown) if self.effect.chown else None
        self._copying(root, owner, None).directories(self.effect.destination)
        self._tree(root, unpack(self.work, fd, subject), None, None)

    def _fetched(self, root: int, plan: _Plan, owner: tuple[int, int], mode: ModeChange | None) -> None:
        assert plan.known is not None
        known = plan.known
        if plan.file < 0:
            known, plan.file = self.fetcher().fetch(plan.text, self.effect.checksum)
            self._changed |= known.sum != plan.known.sum
        if self.effect.unpack and _is_archive(plan.file):
            self._unpacked(root, plan.file, remote.shown(plan.text))
            return
        place = self.work.new()
        name = known.name or "file"
        _write(place / name, plan.file, FETCHED, known.modified)
        self._named(root, place, name, owner, mode)

    def _tree(self, root: int, place: Path, owner: tuple[int, int] | None, mode: ModeChange | None) -> None:
        """The content of a directory of the build's own."""
        with _opened(place) as source:
            self._into(self._copying(root, owner, mode), source, selection.pick(source, "."))

    def _named(
        self, root: int, place: Path, name: str, owner: tuple[int, int], mode: ModeChange | None
    ) -> None:
        with _opened(place) as source:
            status = places.status(source.root, name)
            assert status is not None
            self._into(self._copying(root, owner, mode), source, [Picked(name, name, status)])

    def _inline(self, root: int, owner: tuple[int, int] | None, mode: ModeChange | None) -> None:
        """Files whose content the Dockerfile has."""
        for file in self.effect.files:
            if "/" in file.name or file.name in ("", ".", ".."):
                raise SelectionError(f"the name of a heredoc becomes a file's, and {file.name!r} is a path")
            place = self.work.new()
            (place / file.name).write_bytes(file.content)
            (place / file.name).chmod(INLINE)
            self._named(root, place, file.name, owner or (0, 0), mode)


class _opened:
    """A directory of the build's own as a source."""

    def __init__(self, place: Path) -> None:
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._source = Source(root, tree.Sums(root), str(place), owner=True)

    def __enter__(self) -> Source:
        return self._source

    def __exit__(self, *_: object) -> None:
        os.close(self._source.root)


def _is_archive(fd: int) -> bool:
    from runtime.build.archive import is_archive

    with io.FileIO(os.dup(fd)) as raw, io.BufferedReader(raw) as file:
        found = is_archive(file)
    os.lseek(fd, 0, os.SEEK_SET)
    return found


def _write(path: Path, source: int, mode: int, modified: int) -> None:
    with path.open("wb") as file:
        while os.sendfile(file.fileno(), source, None, 16 << 20):
            pass
        os.fchmod(file.fileno(), mode)
        os.utime(file.fileno(), (modified, modified))
