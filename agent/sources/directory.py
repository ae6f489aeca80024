"""Effects: a directory as a source. Every change yields a whole new snapshot, never half of one.

Changes are told by inotify (watchfiles). After the last of a burst it is quiet for QUIET ms; then everything
is read, and read again when a file changed while it was read. Every LOOK seconds the root's identity is
looked at (it may be a symlink that somebody switches, or be replaced by a rename); every RESCAN seconds
everything is compared, since inotify may lose events. Where the machine has no instances or watches left,
everything is compared every LOOK seconds, until it has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from watchfiles import Change, awatch
from watchfiles.main import FileChange

from agent.sources.revision import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_TOTAL_BYTES,
    Failure,
    Revision,
    Touched,
    Yield,
    digest,
    relevant,
)
from runtime.linux import inotify

log = logging.getLogger(__name__)
logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every change

QUIET = 50  # ms without a change after which a burst has ended
BURST = 500  # ms after which a burst that does not end is looked at all the same
LOOK = 2.0  # s between two looks at the root itself
RESCAN = 30.0  # s between two looks at everything
AGAIN = 0.25  # s after which what could not be watched is watched anew
TRIES = 20  # readings of a directory that changes under our eyes

Signature = dict[str, tuple[int, int, int, int]]


class Unreadable(Exception):
    """The directory cannot be read as a revision. Its text is for people."""


def scan(root: Path) -> Signature:
    """(size, mtime, inode, ctime) of every relevant file, by relative path. Raises Unreadable."""
    found: Signature = {}
    todo = [("", str(root))]
    while todo:
        prefix, directory = todo.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError as error:
            if not prefix:
                raise Unreadable(f"cannot read directory {root}: {error.strerror}".lower()) from error
            continue  # gone since its parent was read, or not ours to read
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    todo.append((path + "/", entry.path))
                continue
            if not relevant(path):
                continue
            try:
                info = entry.stat()  # a symlink's target
            except OSError as error:
                if entry.is_symlink():
                    raise Unreadable(f"cannot read {path}: it is a link to nothing") from error
                continue
            if stat.S_ISREG(info.st_mode):
                _need_text(path)
                found[path] = (info.st_size, info.st_mtime_ns, info.st_ino, info.st_ctime_ns)
        if len(found) > MAX_FILES:
            raise Unreadable(f"cannot read directory {root}: it has more than {MAX_FILES} files")
    return found


def _need_text(path: str) -> None:
    """Names of files are in messages and records, and path_resolution(7) lets them be any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise Unreadable(f"cannot read {shown}: its name is not UTF-8") from None


def read(root: Path) -> tuple[Revision, Signature]:
    """One consistent snapshot of `root`. Raises Unreadable."""
    resolved = Path(os.path.realpath(root))
    for attempt in range(TRIES):
        if attempt:
            time.sleep(0.02)
        before = scan(resolved)
        files = _contents(resolved, before)
        if files is not None and scan(resolved) == before:
            count = len(files)
            note = f"{count} file{'' if count == 1 else 's'}"
            return Revision(digest(files), note, files, str(root)), before
    raise Unreadable(f"cannot read directory {root}: it changes all the time")


def _contents(root: Path, signature: Signature) -> dict[str, bytes] | None:
    """None: a file changed meanwhile."""
    files: dict[str, bytes] = {}
    total = 0
    for path in sorted(signature):
        if signature[path][0] > MAX_FILE_BYTES:
            if path.lower().endswith((".toml", ".yaml", ".yml")):
                raise Unreadable(f"cannot read {path}: larger than {MAX_FILE_BYTES >> 20} MiB")
            continue
        target = os.path.realpath(root / path)
        if os.path.commonpath([target, root]) != str(root):
            raise Unreadable(f"cannot read {path}: it is a link that leaves the source")
        try:
            files[path] = Path(target).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unreadable(f"cannot read {path}: {error.strerror}".lower()) from error
        total += len(files[path])
        if total > MAX_TOTAL_BYTES:
            raise Unreadable(f"cannot read directory {root}: more than {MAX_TOTAL_BYTES >> 20} MiB of specs")
    return files


class DirectorySource:
    """`revisions` yields the directory as it is, then each time it differs."""

    def __init__(self, path: Path, subdirectory: str = "") -> None:
        self.root = path / subdirectory if subdirectory else path
        self._last: Yield | None = None
        self._signature: Signature | None = None
        self._watched: tuple[str, ...] = ()
        self._lack = ""  # why changes are not heard of

    @property
    def location(self) -> str:
        return str(self.root)

    def accept(self, revision: Revision) -> None:
        """`revision` is in force now. Nothing to do: the files lie where they are."""

    def watch(self, directories: Collection[str]) -> None:
        """Tell of every file below these, too (absolute paths in the root): images are built from them."""
        inside = (os.path.relpath(path, self.root) for path in directories)
        self._watched = tuple(sorted(path for path in inside if not path.startswith("..")))

    def abort(self) -> None:
        """The agent ends. Nothing is under way."""

    async def revisions(self, stop: asyncio.Event) -> AsyncIterator[Yield]:
        while not stop.is_set():
            identity = self._identity()
            if identity is None:
                if (found := await asyncio.to_thread(self._read)) is not None:
                    yield found
                await _pause(stop, LOOK)
                continue
            async for found in self._watch(identity, stop):
                yield found

    async def _watch(self, identity: tuple[str, int, int], stop: asyncio.Event) -> AsyncIterator[Yield]:
        """Until the root is another directory, or `stop`. Watches, then reads, so that nothing is missed."""
        told = awatch(
            identity[0],
            watch_filter=self._matters,
            step=QUIET,
            debounce=BURST,
            rust_timeout=int(LOOK * 1000),
            yield_on_timeout=True,
            stop_event=stop,
            ignore_permission_denied=True,
        )
        following = asyncio.ensure_future(anext(told, None))
        await asyncio.sleep(0)  # now the watches are set
        lacking, renewed = await asyncio.to_thread(self._lacks, identity[0]), False
        scanned = 0.0
        changes: set[FileChange] | None = set()
        try:
            while not (changes is None or renewed or stop.is_set()) and self._identity() == identity:
                if changes or time.monotonic() - scanned >= (LOOK if lacking else RESCAN) or not scanned:
                    if scanned:  # directories that came meanwhile want watches, too
                        before, lacking = lacking, await asyncio.to_thread(self._lacks, identity[0])
                        renewed = before and not lacking  # all of it is watched anew
                    scanned = time.monotonic()
                    if (found := await asyncio.to_thread(self._read)) is not None:
                        yield found
                    elif any(self._is_built_from(path) for _, path in changes):
                        yield Touched()
                changes = await following
                following = asyncio.ensure_future(anext(told, None))
        except* (FileNotFoundError, RuntimeError):
            # The root went away, or watchfiles was told of a name that is not UTF-8: look again, which misses
            # nothing. Anything may write below the root, as often as it likes. Or inotify is not to be had.
            await _pause(stop, LOOK if self._lack else AGAIN)
        finally:
            following.cancel()  # not begun, or done: a call of awatch that is cancelled sets `stop`
            await asyncio.gather(following, return_exceptions=True)

    def _lacks(self, real: str) -> bool:
        """Whether inotify can take no more. watchfiles passes over directories that it cannot watch for that,
        without a word."""
        lack = ""
        try:
            fd = inotify.open_inotify()
            try:
                inotify.add_watch(fd, real, inotify.IN_DELETE_SELF)
            finally:
                os.close(fd)
        except OSError as error:
            if not inotify.is_exhausted(error):  # the root has gone, which says nothing of it
                return bool(self._lack)
            lack = str(error.strerror)
        if lack and not self._lack:
            log.warning("cannot watch %s: %s; it is read every %g s instead", self.root, lack, LOOK)
        if self._lack and not lack:
            log.warning("%s is watched again", self.root)
        self._lack = lack
        return bool(lack)

    def _matters(self, change: Change, path: str) -> bool:
        """Directories may come and go whole, with files in them."""
        relative = os.path.relpath(path, os.path.realpath(self.root))
        name = os.path.basename(path)
        if self._is_built_from(path):
            return True
        return relevant(relative) or ("." not in name and os.path.isdir(path)) or change is Change.deleted

    def _is_built_from(self, path: str) -> bool:
        relative = os.path.relpath(path, os.path.realpath(self.root))
        if ".git" in relative.split("/"):
            return False
        return any(top == "." or f"{relative}/".startswith(f"{top}/") for top in self._watched)

    def _identity(self) -> tuple[str, int, int] | None:
        """Where the root really is, and which directory that is."""
        try:
            real = os.path.realpath(self.root)
            info = os.stat(real)
        except OSError:
            return None
        return (real, info.st_dev, info.st_ino) if stat.S_ISDIR(info.st_mode) else None

    def _read(self) -> Yield | None:
        """The directory when it differs from what was yielded last; else None."""
        try:
            if self._signature is not None and scan(Path(os.path.realpath(self.root))) == self._signature:
                return None
            found: Yield
            found, self._signature = read(self.root)
        except Unreadable as error:
            found, self._signature = Failure(str(error)), None
        except OSError as error:
            found = Failure(f"cannot read directory {self.root}: {error.strerror}".lower())
            self._signature = None
        last, self._last = self._last, found
        if isinstance(found, Revision) and isinstance(last, Revision) and last.id == found.id:
            return None
        return None if found == last else found


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass
