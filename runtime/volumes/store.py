"""Effects: the volumes of one state directory: their records, their directories, and who holds their mounts.

A volume is `volumes/<project>/<name>/_data`. Where its options say so, something is mounted there from its
first use to its last: `run/volumes/<name>/` has a file for each container that holds it, which vanishes with
a reboot as the mount does. A crash leaves both or neither, or a file without a mount, which the next use
makes good.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime import events
from runtime.backups import leftovers
from runtime.backups.holds import Holds
from runtime.database import Database
from runtime.faults import Fault, faults
from runtime.inside import clone_mount, same_process
from runtime.linux import mounts, pidfd
from runtime.paths import Paths, delete_tree
from runtime.usage import tree_size
from runtime.volumes import backing as backings
from runtime.volumes import fates, filling
from runtime.volumes.records import (
    Volume,
    data_path,
    read_anonymous,
    read_users,
    read_volume,
    read_volumes,
)
from runtime.wishes import VolumeRequest
from specs.values import NAME
from specs.volumes import Backing, OptionMistake, backing

VolumeList = list[Volume]  # Volumes.list hides the builtin in annotations
Names = list[str]
#: Characters of a random name, as docker has them.
_RANDOM = 32
#: Where removed volumes lie until their files are deleted.
_REMOVED = ".removed"
#: What begins the name of a holder that is a process of ours.
_PROCESS = "process-"


class Volumes:
    """Thread-safe; every method is an ensure. Volumes of other processes (`stead volume`) come and go by
    their rows."""

    def __init__(self, paths: Paths, database: Database, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.paths = paths
        self._database = database
        self._clock = clock
        self._locks: dict[str, threading.RLock] = {}
        self._locks_lock = threading.Lock()

    # ------------------------------------------------------------ rows

    def create(self, request: VolumeRequest, *, anonymous: bool = False) -> None:
        """Record and directory; what its options ask for is tried once, so that a refusal comes before a use.

        `anonymous`: nobody chose its name. Faults request-invalid (name, options), volume-refused.
        """
        path, wanted = self._path(request.name), self._backing(request.name, request.options)
        with self._lock(request.name):
            fresh = not path.parent.exists()
            with faults("create volume", request.name):
                path.mkdir(mode=0o755, parents=True, exist_ok=True)
            try:
                self._try(request.name, path, wanted)
            except BaseException:
                if fresh:
                    self._discard(self._aside(path.parent))
                    _remove_if_empty(path.parent.parent)
                raise
            with self._database.write() as connection:
                self._insert(connection, request, anonymous=anonymous)
                fates.declare(connection, request.name, request.prune)
            if fresh:
                events.tell(self.paths.root, "volume", "create", request.name, request.name, driver="local")

    def orphan(self, name: str) -> None:
        """Nothing declares it from now on; its size now is remembered with that. Repeatable."""
        volume = self.get(name)
        if volume is None:
            return
        on = self._backing(name, volume.options)
        loop = volume.home / backings.LOOP_FILE
        size = -1 if on.mounted else tree_size(volume.path)
        if on.kind == "loop" and loop.exists():
            size = loop.stat().st_blocks * 512  # stat(2)
        with self._database.write() as connection:
            fates.orphan(connection, name, self._clock(), size)

    def _insert(self, connection: sqlite3.Connection, request: VolumeRequest, *, anonymous: bool) -> None:
        connection.execute(
            "INSERT INTO volumes (name, source, fingerprint, labels, options, keep, anonymous, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET source = excluded.source, fingerprint = excluded.fingerprint,"
            " labels = excluded.labels, options = excluded.options, keep = excluded.keep",
            (
                request.name,
                request.source,
                request.fingerprint,
                _json(request.labels),
                _json(request.options),
                request.keep,
                anonymous,
                self._clock(),
            ),
        )

    def list(self) -> VolumeList:
        """Every volume, by name."""
        return read_volumes(self._database.read(), self.paths.volumes)

    def get(self, name: str) -> Volume | None:
        return read_volume(self._database.read(), self.paths.volumes, name)

    def is_empty(self, volume: Volume) -> bool:
        """Whether there is surely nothing in it: not known of what is mounted on demand."""
        if self._backing(volume.name, volume.options).mounted:
            return False
        try:
            with os.scandir(volume.path) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            return True

    def need(self, name: str, operation: str) -> Volume:
        """Fault volume-not-found."""
        volume = self.get(name)
        if volume is None:
            raise Fault("volume-not-found", operation, name, "there is no volume of this name")
        return volume

    # ------------------------------------------------------------ remove

    def remove(self, name: str, users: Sequence[str] = (), *, even_kept: bool = False) -> None:
        """Data and record go; repeatable. Fault volume-in-use names the containers that mount it (`users` are
        further ones); volume-kept, unless `even_kept`.

        The record goes in one transaction with the look at the users, the data out of sight with it.
        """
        home, holds = self._path(name).parent, Holds(self.paths)
        with self._lock(name), holds.hold(name, "being removed"):
            with self._database.write() as connection:
                found = sorted({*users, *read_users(connection).get(name, ())})
                if found:
                    shown = ", ".join(found[:5])
                    raise Fault(
                        "volume-in-use",
                        "remove volume",
                        name,
                        f"used by {shown}",
                        "remove its containers first",
                    )
                have = self.get(name)
                if have is not None and have.keep and not even_kept:
                    cause = "it is marked to be kept"
                    raise Fault("volume-kept", "remove volume", name, cause, "take keep away, or use --force")
                with faults("remove volume", name):
                    backings.unmount(home / "_data")
                    _refuse_mounts(home, name)
                    backings.unlimit(home)
                    aside = self._aside(home)
                connection.execute("DELETE FROM volumes WHERE name = ?", (name,))
                connection.execute("DELETE FROM anonymous_volumes WHERE volume = ?", (name,))
                fates.forget(connection, name)
            with faults("remove volume", name):
                _remove_if_empty(home.parent)
                self._discard(aside)
                holds.forget(name)
        if have is not None:
            events.tell(self.paths.root, "volume", "destroy", name, name, driver="local")

    def _aside(self, home: Path) -> Path:
        """`home` goes where no volume is, all at once: what is there belongs to nobody any more."""
        removed = self.paths.volumes / _REMOVED
        removed.mkdir(mode=0o700, exist_ok=True)
        aside = removed / secrets.token_hex(8)
        if home.exists():
            os.rename(home, aside)
        return aside

    def _discard(self, aside: Path) -> None:
        """Another process may be at it, too."""
        delete_tree(aside)
        _remove_if_empty(aside.parent)

    # ------------------------------------------------------------ anonymous volumes

    def anonymous(
        self, container: str, source: str, targets: Mapping[str, Mapping[str, str]]
    ) -> dict[str, str]:
        """target -> volume. A container of an older release gets at its next start what its creation
        lacked."""
        have = read_anonymous(self._database.read(), container) if targets else {}
        if have.keys() == targets.keys():
            return have
        with self._database.write() as connection:
            return self.adopt(connection, container, source, targets)

    def adopt(
        self,
        connection: sqlite3.Connection,
        container: str,
        source: str,
        targets: Mapping[str, Mapping[str, str]],
    ) -> dict[str, str]:
        """The anonymous volumes of a container, by target; those that are missing are recorded. `targets`
        has the labels of each. What the container had at other targets is nobody's any more, and stays until
        it is pruned.
        """
        have = read_anonymous(connection, container)
        for target in have.keys() - targets.keys():
            connection.execute(
                "DELETE FROM anonymous_volumes WHERE container = ? AND target = ?", (container, target)
            )
        for target, labels in targets.items():
            if target not in have:
                name = have[target] = secrets.token_hex(_RANDOM)
                request = VolumeRequest(name, source, "", labels)
                self._insert(connection, request, anonymous=True)
                connection.execute(
                    "INSERT INTO anonymous_volumes VALUES (?, ?, ?)", (container, target, name)
                )
        return {target: have[target] for target in targets}

    def disown(self, connection: sqlite3.Connection, container: str) -> Names:
        """The container is gone for good: its anonymous volumes, which are returned, are nobody's from now
        on."""
        names = sorted(read_anonymous(connection, container).values())
        connection.execute("DELETE FROM anonymous_volumes WHERE container = ?", (container,))
        return names

    def rename_owner(self, connection: sqlite3.Connection, container: str, new: str) -> None:
        """Its anonymous volumes follow the container to its new name."""
        query = "UPDATE anonymous_volumes SET container = ? WHERE container = ?"
        connection.execute(query, (new, container))

    # ------------------------------------------------------------ use

    def use(self, name: str, id: str, *, rootfs: Path, target: str, nocopy: bool) -> Path:
        """The directory of the volume for container `id`, mounted and filled. `release` is the end of it.

        Faults volume-not-found, volume-refused.
        """
        with self._lock(name):
            volume = self.need(name, "mount volume")
            wanted = self._backing(name, volume.options)
            with faults("mount volume", name):
                volume.path.mkdir(mode=0o755, parents=True, exist_ok=True)
                if wanted.mounted:
                    self._hold(name, id)
            self._ready(name, volume.path, wanted)
            if wanted.mounted:
                with faults("mount volume", name):
                    leftovers.clear(volume)
            if not nocopy and not (volume.filled and wanted.lasting):
                with faults("fill volume", name):
                    if filling.fill(volume.path, rootfs, target, mounted=wanted.mounted):
                        self._set_filled(name)
        return volume.path

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """The directory of the volume with all that is in it, for a job of this process; whatever it lies on
        is mounted meanwhile. Faults volume-not-found, volume-refused."""
        holder = _process()
        with self._lock(name):
            volume = self.need(name, "open volume")
            wanted = self._backing(name, volume.options)
            if wanted.mounted:
                with faults("open volume", name):
                    self._hold(name, holder)
            try:
                self._ready(name, volume.path, wanted)
            except BaseException:
                self._let_go(name, holder)
                raise
        try:
            yield volume.path
        finally:
            self._let_go(name, holder)

    def release(self, id: str) -> None:
        """Container `id` uses nothing any more; what nobody else uses is unmounted."""
        for name, holders in self._held().items():
            if id in holders:
                self._let_go(name, id)

    def sweep(self, living: Collection[str]) -> tuple[str, ...]:
        """Let go what containers hold that are not there any more, and delete what removals left behind."""
        removed = []
        for name, holders in self._held().items():
            dead = {id for id in holders - set(living) if not _works(id)}
            if dead or not holders:
                for id in dead or {""}:
                    self._let_go(name, id)
                removed.append(f"mount of volume {name}")
        for left in self._removed():
            with faults("sweep volume", str(left)):
                self._discard(left)
            removed.append(f"removed volume {left.name}")
        return tuple(removed)

    def leftovers(self, living: Collection[str]) -> set[str]:
        """What `sweep` would do."""
        return {f"removed volume {left.name}" for left in self._removed()} | {
            f"mount of volume {name}"
            for name, holders in self._held().items()
            if not holders or any(not _works(id) for id in holders - set(living))
        }

    def unmounted(self) -> frozenset[str]:
        """Volumes that containers hold, on which something is to be mounted and is not."""
        held = self._held()
        return frozenset(
            name for name, holders in held.items() if holders and not mounts.is_mounted(self._path(name))
        )

    def remount(self, name: str, pid: int, target: str) -> None:
        """Mount again what somebody unmounted under process `pid`, which has it at `target`: the same
        content, also where that is nowhere but in what the process has."""
        with self._lock(name):
            volume = self.need(name, "mount volume")
            wanted = self._backing(name, volume.options)
            if not wanted.mounted or mounts.is_mounted(volume.path):
                return
            if wanted.lasting:
                backings.mount(wanted, volume.path, name)
                return
            with faults("mount volume", name):
                clone_mount(pid, target, volume.path)

    def _removed(self) -> Iterator[Path]:
        yield from self.paths.volumes.glob(f"{_REMOVED}/*")

    # ------------------------------------------------------------ mounts and limits

    def _try(self, name: str, path: Path, wanted: Backing) -> None:
        if wanted == Backing():
            return
        if not wanted.mounted:
            backings.limit(path.parent, wanted.size, name)
            return
        if self._held().get(name) or mounts.is_mounted(path):
            return  # what is in use stays as it is until its last user ends
        holder = _process()
        self._hold(name, holder)
        try:
            backings.mount(wanted, path, name)
        finally:
            self._let_go(name, holder)

    def _ready(self, name: str, path: Path, wanted: Backing) -> None:
        if wanted.mounted:
            if not mounts.is_mounted(path):
                backings.mount(wanted, path, name)
        elif wanted.size:
            backings.limit(path.parent, wanted.size, name)

    def _hold(self, name: str, id: str) -> None:
        directory = self._holders(name)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / id).touch(mode=0o600)

    def _let_go(self, name: str, id: str) -> None:
        directory = self._holders(name)
        with self._lock(name), faults("unmount volume", name):
            if id:
                (directory / id).unlink(missing_ok=True)
            if directory.is_dir() and not os.listdir(directory):
                backings.unmount(self._path(name))
                directory.rmdir()

    def _held(self) -> dict[str, set[str]]:
        """volume -> ids of the containers that hold its mount"""
        try:
            names = os.listdir(self.paths.run / "volumes")
        except FileNotFoundError:
            return {}
        found = {}
        for quoted in names:
            try:
                found[quoted.replace(",", "/")] = set(os.listdir(self.paths.run / "volumes" / quoted))
            except FileNotFoundError:
                continue  # let go at this moment
        return found

    def _holders(self, name: str) -> Path:
        """No volume has a comma in its name."""
        return self.paths.run / "volumes" / name.replace("/", ",")

    def _set_filled(self, name: str) -> None:
        with self._database.write() as connection:
            connection.execute("UPDATE volumes SET filled = 1 WHERE name = ?", (name,))

    def _backing(self, name: str, options: Mapping[str, str]) -> Backing:
        try:
            return backing(options)
        except OptionMistake as mistake:
            raise Fault("request-invalid", "use volume", name, str(mistake), mistake.hint) from mistake

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if len(parts) > 2 or not all(NAME.match(part) for part in parts):
            raise Fault("request-invalid", "use volume", name, "it is not a volume name")
        return data_path(self.paths.volumes, name)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with self._locks_lock:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            yield


def _refuse_mounts(home: Path, name: str) -> None:
    """What somebody mounted inside of a volume is not ours to delete."""
    inside = [mount.target for mount in mounts.table() if mount.target.startswith(f"{home}/")]
    if inside:
        cause = f"something is mounted at {inside[0]}"
        raise Fault("volume-in-use", "remove volume", name, cause, "unmount it first")


def _unless_gone(_function: object, _path: object, info: tuple[type, BaseException, object]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


def _process() -> str:
    """A holder that lives as long as this process does."""
    pid = os.getpid()
    return f"{_PROCESS}{pid}-{pidfd.start_time(pid)}-{secrets.token_hex(4)}"


def _works(holder: str) -> bool:
    """Whether the process of such a holder is still there."""
    words = holder.removeprefix(_PROCESS).split("-")
    return holder.startswith(_PROCESS) and same_process(int(words[0]), int(words[1]))


def _json(values: Mapping[str, str]) -> str:
    return json.dumps(dict(values), sort_keys=True)


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
            raise
