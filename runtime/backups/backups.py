"""Effects: a volume's data as a file, and a file as a volume's data again.

Who writes to the volume meanwhile is held still as the caller says: `freeze` (its processes do not run),
`stop` (it ends as at a shutdown and is started again), `none`. However this process ends, frozen containers
go on and stopped ones are started.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from runtime import attend
from runtime.backups import form, guard, leftovers, process, target
from runtime.backups.form import Summary
from runtime.backups.holds import READING, Holds
from runtime.backups.leftovers import RESTORING
from runtime.backups.retention import kept
from runtime.database import Database
from runtime.faults import Fault, faults
from runtime.halt import end
from runtime.images.blobs import CHUNK, sync_directory
from runtime.linux import libc, mounts, trees
from runtime.linux.cgroups import Cgroups
from runtime.metadata import give_metadata
from runtime.paths import Paths, write_atomically
from runtime.pausing import paused
from runtime.records import ContainerRecord, read_containers
from runtime.volumes import Volume, Volumes
from runtime.volumes.filling import is_empty
from runtime.volumes.records import read_claims
from runtime.wishes import VolumeRequest
from specs.values import Keep
from specs.volumes import backing

FREEZE, STOP, NONE = "freeze", "stop", "none"

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARALLEL = 8  # containers that are started at a time

Start = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made. `seconds` is how long it took, `held` how long its users were held still."""

    path: Path
    summary: Summary
    bytes: int  # of the file
    seconds: float
    held: float = 0.0


@dataclass(frozen=True, slots=True)
class Drilled:
    """A backup that was restored and compared: it is what it says."""

    path: Path
    summary: Summary
    seconds: float


class Backups:
    """Of one state directory. Thread-safe. `start` starts a container.

    `foreign`, where it is an argument: containers that were stopped are not started again here, since an
    agent in another process does it, once it may.
    """

    def __init__(
        self, paths: Paths, database: Database, volumes: Volumes, cgroups: Cgroups, holds: Holds, start: Start
    ) -> None:
        self._paths, self._database, self._volumes = paths, database, volumes
        self._cgroups, self._holds, self._start = cgroups, holds, start
        #: set when what is under way is to fail soon
        self.closing = threading.Event()

    # ------------------------------------------------------------ backup

    def backup(
        self,
        volume: str,
        into: Path,
        *,
        now: float,
        quiesce: str = FREEZE,
        revision: str = "",
        foreign: bool = False,
    ) -> Made:
        """`into` is a directory, or the path of a file that is not there yet.

        Faults volume-not-found, volume-in-use (by another backup), request-invalid, backup-invalid (what no
        archive can hold), disk-full, kernel-error.
        """
        operation, begin = "back up volume", time.monotonic()
        found = self._volumes.need(volume, operation)
        shared = quiesce == NONE
        with faults(operation, volume), self._alone(volume, "being backed up", shared=shared) as after:
            path = target.chosen(into, volume, now)
            self._refuse_fleeting(found, operation, self._users(volume, writers=False))
            data = after.enter_context(self._volumes.at_hand(volume))
            _refuse_inside(path, data, volume)
            with target.written(path) as file, tempfile.TemporaryFile(dir=path.parent) as scratch:
                with self._still(volume, quiesce, operation, foreign, after) as users:
                    since = time.monotonic()
                    report = self._write(data, file, scratch, volume)
                    held = time.monotonic() - since if users else 0.0
                summary = Summary(
                    volume,
                    found.source,
                    now,
                    quiesce=quiesce,
                    revision=revision,
                    users=tuple(users),
                    **report,
                )
                file.seek(0, os.SEEK_END)
                file.write(form.tail(summary))
            size = path.stat().st_size
        return Made(path, summary, size, time.monotonic() - begin, held)

    def _write(self, data: Path, file: BinaryIO, scratch: Any, volume: str) -> dict[str, Any]:
        root = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fds = (root, file.fileno(), scratch.fileno())
            return process.run("back up volume", volume, "write", *fds, fds=fds, cancelled=self.closing)
        finally:
            os.close(root)

    def prune(self, directory: Path, volume: str, keep: Keep) -> list[Path]:
        """Remove the backups of `volume` that are not to be kept. Returns which."""
        with faults("remove backups in", str(directory)):
            found = target.backups(directory, volume)
            stay = kept((item.summary.at for item in found), keep)
            gone = [item.path for item in found if item.summary.at not in stay]
            for path in gone:
                path.unlink(missing_ok=True)
        return gone

    # ------------------------------------------------------------ who uses it

    def _users(self, volume: str, *, writers: bool) -> list[ContainerRecord]:
        """Containers with a supervisor that use the volume."""
        connection = self._database.read()
        owner = read_claims(connection).get(volume, "")
        return [
            record
            for record in read_containers(connection)
            if (record.name == owner or _mounts(record, volume, writers=writers))
            and attend.live_state(self._paths, record)
        ]

    @contextmanager
    def _alone(self, volume: str, what: str, *, shared: bool = False) -> Iterator[ExitStack]:
        """Hold the volume; `shared`: containers may be started meanwhile, and it may not go.

        What is pushed on the stack runs when nobody holds it any more.
        """
        with ExitStack() as after, ExitStack() as held:
            if shared:
                held.enter_context(self._holds.hold(volume + READING, what))
                held.enter_context(self._holds.sharing(volume))
            else:
                held.enter_context(self._holds.hold(volume, what))
            yield after

    @contextmanager
    def _still(
        self, volume: str, quiesce: str, operation: str, foreign: bool, after: ExitStack
    ) -> Iterator[list[str]]:
        """Nobody writes to the volume within the block, unless `quiesce` is none. Who is held still."""
        users = [] if quiesce == NONE else self._users(volume, writers=True)
        names = [record.name for record in users]
        if quiesce == STOP:
            self._stop(users, operation, volume, foreign, after)
            yield names
            return
        groups = [
            (record.name, str(attend.read_config(self._paths, record)["linux"]["cgroupsPath"]))
            for record in users
        ]
        with paused(self._cgroups, groups, self._paths):
            yield names

    def _stop(
        self,
        users: Sequence[ContainerRecord],
        operation: str,
        volume: str,
        foreign: bool,
        after: ExitStack,
    ) -> None:
        """As a shutdown stops them: they stay wanted, and are started again by `after`."""
        if not users:
            return
        names = [record.name for record in users]
        after.enter_context(guard.guarded(self._paths, names))
        if not foreign:
            after.callback(self._start_again, names)
        _, late = end([state for record in users if (state := attend.live_state(self._paths, record))])
        if late:
            raise Fault("shim-unreachable", operation, volume, f"{', '.join(late)} did not end in time")

    def _start_again(self, names: Sequence[str]) -> None:
        """All of them, whatever happens to one."""
        with ThreadPoolExecutor(_PARALLEL) as threads:
            starts = [threads.submit(self._start, name) for name in names]
        for started in starts:
            started.result()

    # ------------------------------------------------------------ restore

    def restore(
        self, volume: str, path: Path, *, force: bool = False, stop: bool = False, foreign: bool = False
    ) -> Summary:
        """The volume's data become what the backup `path` holds; a volume that is not there is made.

        The backup is verified before anything is touched, and what was there stays until all is unpacked.

        `force`: data that is there is replaced. `stop`: running users are stopped, and started again.
        Faults backup-invalid, digest-mismatch, volume-in-use (names the users), volume-not-empty, disk-full.
        """
        operation = "restore volume"
        file, summary = target.opened(path, operation)
        with file, faults(operation, volume):
            self._verify(file, summary, operation)
            with self._alone(volume, "being restored") as after:
                users = self._users(volume, writers=False)
                if users and not stop:
                    shown = ", ".join(record.name for record in users[:5])
                    hint = "stop them first, or add --stop"
                    raise Fault("volume-in-use", operation, volume, f"used by {shown}", hint)
                found = self._ensure(volume, summary.source if volume == summary.volume else "")
                self._refuse_fleeting(found, operation, ())
                with self._volumes.at_hand(volume) as data:
                    inside = mounts.is_mounted(data)
                    if not force and not is_empty(data, mounted=inside) and not leftovers.is_cut_off(found):
                        hint = "restore into another volume, or replace its data with --force"
                        raise Fault("volume-not-empty", operation, volume, "it has data", hint)
                    self._stop(users, operation, volume, foreign, after)
                    replace = self._replace_inside if inside else self._replace
                    replace(found, file, summary)
                with self._database.write() as connection:
                    connection.execute("UPDATE volumes SET filled = 1 WHERE name = ?", (volume,))
        return summary

    def _verify(self, file: BinaryIO, summary: Summary, operation: str) -> None:
        digest, left = hashlib.sha256(), summary.covered
        file.seek(0)
        while left and (data := file.read(min(left, CHUNK))):
            digest.update(data)
            left -= len(data)
            if self.closing.is_set():
                raise Fault("kernel-error", operation, str(file.name), "the agent ends", "it is tried again")
        if left or digest.hexdigest() != summary.digest:
            cause = f"its content is sha256:{digest.hexdigest()}, not sha256:{summary.digest}"
            raise Fault("digest-mismatch", operation, str(file.name), cause, "take another backup")

    def _refuse_fleeting(self, volume: Volume, operation: str, users: Sequence[ContainerRecord]) -> None:
        """What lies in memory is nowhere while no container uses it."""
        if not users and not backing(volume.options).lasting:
            cause = "its data are there only while containers use it"
            raise Fault("request-invalid", operation, volume.name, cause)

    def _ensure(self, volume: str, source: str) -> Volume:
        """The volume; one that is not there is made for `source`, whose next round takes it up as it is, or
        by hand where that is empty."""
        found = self._volumes.get(volume)
        if found is None:
            self._volumes.create(VolumeRequest(volume, source, ""))
            found = self._volumes.get(volume)
            assert found is not None
        found.path.mkdir(mode=0o755, parents=True, exist_ok=True)  # somebody may have removed it
        return found

    def _replace(self, volume: Volume, file: BinaryIO, summary: Summary) -> None:
        """The new tree beside the data, then both change places at once."""
        home = volume.path.parent
        new = home / RESTORING
        try:
            made = self._unpack(new, file, summary, "restore volume", volume.name)
            with _closed(made):
                _sync(made)
            exchange(new, volume.path)
            sync_directory(home)
        finally:
            trees.remove(new, ignore_errors=True)

    def _replace_inside(self, volume: Volume, file: BinaryIO, summary: Summary) -> None:
        """As `_replace`, of a file system of its own: what is unpacked in it takes the place of the rest,
        entry by entry. Until that is done no container gets the volume (`leftovers.clear`).

        Others may have the same file system elsewhere (a bind of the directory, the server of it), and put
        a link at any path in it: all goes by descriptors."""
        data = volume.path
        new, mark = data / leftovers.INSIDE, volume.home / leftovers.CUT_OFF
        try:
            made = self._unpack(new, file, summary, "restore volume", volume.name)
            with _closed(made), _closed(os.open(data, _DIRECTORY)) as to:
                _sync(made)
                write_atomically(mark, b"")
                for name in set(os.listdir(to)) - {new.name}:
                    trees.discard(data / name)
                for name in os.listdir(made):
                    os.rename(name, name, src_dir_fd=made, dst_dir_fd=to)
                status = os.fstat(made)
                give_metadata(Path(f"/proc/self/fd/{made}"), to, status)
                os.rmdir(new)
                os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns))
                _sync(to)
            mark.unlink()
        finally:
            trees.remove(new, ignore_errors=True)

    def _unpack(self, new: Path, file: BinaryIO, summary: Summary, operation: str, subject: str) -> int:
        """At `new`, which is returned open. Fault disk-full before it begins where there is no room."""
        trees.discard(new)
        status = os.statvfs(new.parent)
        free = status.f_bavail * status.f_frsize
        if summary.tar > free:
            cause = f"{summary.tar} bytes are needed, {free} are free"
            raise Fault("disk-full", operation, subject, cause)
        new.mkdir(mode=0o700)
        made = os.open(new, _DIRECTORY)
        try:
            words, fds = (made, file.fileno(), summary.archive, summary.tar), (made, file.fileno())
            process.run(operation, subject, "unpack", *words, fds=fds, cancelled=self.closing)
        except BaseException:
            os.close(made)
            raise
        return made

    # ------------------------------------------------------------ drill

    def drill(self, volume: str, directory: Path) -> Drilled:
        """Restore the newest backup of `volume` in `directory` aside, and compare what comes of it, entry by
        entry, with what the backup says. Faults backup-differs, backup-invalid (there is none, too),
        digest-mismatch."""
        operation, begin = "drill backup of", time.monotonic()
        with faults(operation, volume):
            found = target.backups(directory, volume)
        if not found:
            cause = f"{directory} has none"
            raise Fault("backup-invalid", operation, volume, cause, "make one: stead volume backup")
        file, summary = target.opened(found[-1].path, operation)
        place, hold = leftovers.drill_place(self._paths, volume), leftovers.drill_hold(volume)
        with file, faults(operation, volume), self._holds.hold(hold, "being drilled"):
            self._verify(file, summary, operation)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            try:
                os.close(self._unpack(place, file, summary, operation, volume))
                self._compare(place, file, summary, volume)
            finally:
                trees.remove(place, ignore_errors=True)
        return Drilled(found[-1].path, summary, time.monotonic() - begin)

    def _compare(self, place: Path, file: BinaryIO, summary: Summary, volume: str) -> None:
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        offset = summary.archive + len(form.frame(0))
        try:
            words, fds = (root, file.fileno(), offset, summary.lines), (root, file.fileno())
            report = process.run(
                "drill backup of", volume, "compare", *words, fds=fds, cancelled=self.closing
            )
        finally:
            os.close(root)
        if report["count"]:
            shown = "; ".join(report["differences"])
            cause = f"{report['count']} entries of {file.name} differ: {shown}"
            raise Fault("backup-differs", "drill backup of", volume, cause)

    # ------------------------------------------------------------ what a crash left

    def leftovers(self) -> set[str]:
        """What `sweep` would remove."""
        return leftovers.found(self._paths, self._volumes.list(), self._holds)

    def sweep(self) -> list[str]:
        return leftovers.sweep(self._paths, self._volumes.list(), self._holds)


def _mounts(record: ContainerRecord, volume: str, *, writers: bool) -> bool:
    return any(
        mount.kind == "volume" and mount.source == volume and not (writers and mount.read_only)
        for mount in record.decode().mounts
    )


@contextmanager
def _closed(fd: int) -> Iterator[int]:
    """The descriptor, which is closed at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def _sync(fd: int) -> None:
    """All of its file system is on the disk: syncfs(2)."""
    libc.call("syncfs", fd, subject=f"descriptor {fd}")


def exchange(one: Path, other: Path) -> None:
    """Both names change their meaning at once: renameat2(2)."""
    at = libc.AT_FDCWD
    words = (at, os.fsencode(one), at, os.fsencode(other), _EXCHANGE)
    libc.call("renameat2", *words, subject=str(other))


def _refuse_inside(path: Path, data: Path, volume: str) -> None:
    """A backup does not grow into itself."""
    where = path.parent.resolve()
    if where == data.resolve() or data.resolve() in where.parents:
        cause = f"{where} is inside the volume"
        raise Fault("request-invalid", "back up volume", volume, cause, "write it to another directory")


__all__ = ["FREEZE", "NONE", "STOP", "Backups", "Drilled", "Made"]
