"""Effects: named volumes under `root/volumes`, and what a container's mounts become in its OCI config.

A volume is `volumes/<project>/<name>/_data`. On its first use while it is empty it gets what the image has at
that path: copied aside completely (`_copy`), named `_copied`, then moved entry by entry, so that a crash at
any point is either forgotten or finished, and `_data` keeps its inode while others have it mounted.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.database import Database
from runtime.faults import Fault, faults
from runtime.interface import ContainerRequest, VolumeRequest
from runtime.linux import openat2
from runtime.paths import Paths
from specs.values import NAME, MountPoint

VOLUMES_SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
    name        TEXT PRIMARY KEY,
    source      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    labels      TEXT NOT NULL,
    filled      INTEGER NOT NULL DEFAULT 0
) STRICT;
"""

_CHUNK = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume. `path` is what containers see; `filled`: it never gets an image's content any more."""

    name: str
    source: str
    fingerprint: str
    path: Path
    filled: bool
    labels: Mapping[str, str]


VolumeList = list[Volume]
Mounts = list[dict[str, Any]]


class Volumes:
    """The volumes of one state directory. Thread-safe; every method is an ensure."""

    def __init__(self, paths: Paths, database: Database) -> None:
        self._paths = paths
        self._database = database
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()

    def create(self, request: VolumeRequest) -> None:
        """Record and directory. Fault request-invalid for a name that is no path of names."""
        path = self._path(request.name)
        with faults("create volume", request.name):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        labels = json.dumps(dict(request.labels), sort_keys=True)
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO volumes (name, source, fingerprint, labels) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET source = excluded.source,"
                " fingerprint = excluded.fingerprint, labels = excluded.labels",
                (request.name, request.source, request.fingerprint, labels),
            )

    def remove(self, name: str, users: Sequence[str] = ()) -> None:
        """Data and record go; repeatable. `users` are containers that use it: Fault volume-in-use."""
        if users:
            shown = ", ".join(sorted(users)[:5])
            hint = "remove its containers first"
            raise Fault("volume-in-use", "remove volume", name, f"used by {shown}", hint)
        home = self._path(name).parent
        with self._lock(name), faults("remove volume", name):
            if home.exists():
                shutil.rmtree(home)
            if home.parent != self._paths.volumes:
                _remove_if_empty(home.parent)
        with self._database.write() as connection:
            connection.execute("DELETE FROM volumes WHERE name = ?", (name,))

    def list(self) -> VolumeList:
        """Every volume, by name."""
        rows = self._database.read().execute("SELECT * FROM volumes ORDER BY name")
        return [self._volume(row) for row in rows]

    def get(self, name: str) -> Volume | None:
        row = self._database.read().execute("SELECT * FROM volumes WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        return self._volume(row)

    def prepare(self, request: ContainerRequest, rootfs: Path) -> Mounts:
        """The request's mounts as OCI mounts, with volumes filled and short-form bind sources created.

        `rootfs` is the container's mounted root, in which nothing runs yet. Faults volume-not-found,
        mount-source-missing.
        """
        return [self._prepare(mount, request.name, rootfs) for mount in request.mounts]

    def _prepare(self, mount: MountPoint, container: str, rootfs: Path) -> dict[str, Any]:
        mode = ["ro"] if mount.read_only else ["rw"]
        if mount.kind == "tmpfs":
            options = ["nosuid", "nodev", "noexec", *mode, f"mode={mount.tmpfs_mode:o}"]
            options += [f"size={mount.tmpfs_size}"] if mount.tmpfs_size else []
            return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}
        source = (
            self._volume_source(mount, rootfs) if mount.kind == "volume" else _bind_source(mount, container)
        )
        options = ["rbind", mount.propagation, *mode]
        return {"destination": mount.target, "type": "bind", "source": source, "options": options}

    def _volume_source(self, mount: MountPoint, rootfs: Path) -> str:
        volume = self.get(mount.source)
        if volume is None:
            cause = "there is no volume of this name"
            raise Fault("volume-not-found", "mount volume", mount.source, cause)
        if not mount.nocopy:
            with self._lock(volume.name), faults("fill volume", volume.name):
                self._fill(volume.name, rootfs, mount.target)
        with faults("mount volume", volume.name):
            volume.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return str(volume.path)

    def _fill(self, name: str, rootfs: Path, target: str) -> None:
        """Copy-up, at most once; the caller holds the volume's lock."""
        volume = self.get(name)
        if volume is None or volume.filled:
            return
        data, copying, copied = (volume.path.with_name(part) for part in ("_data", "_copy", "_copied"))
        data.mkdir(mode=0o755, parents=True, exist_ok=True)
        if copying.exists():
            shutil.rmtree(copying)
        if not copied.exists():
            if not os.listdir(data):
                try:
                    if not _copy_from_image(rootfs, target, copying):
                        return
                except BaseException:
                    shutil.rmtree(copying, ignore_errors=True)  # a disk may be full of it
                    raise
                os.rename(copying, copied)
            else:
                self._set_filled(name)
                return
        for entry in os.listdir(copied):
            os.rename(copied / entry, data / entry)
        _copy_metadata(copied, data, os.lstat(copied))
        os.rmdir(copied)
        _sync(data)
        self._set_filled(name)

    def _set_filled(self, name: str) -> None:
        with self._database.write() as connection:
            connection.execute("UPDATE volumes SET filled = 1 WHERE name = ?", (name,))

    def _volume(self, row: sqlite3.Row) -> Volume:
        return Volume(
            row["name"],
            row["source"],
            row["fingerprint"],
            self._path(row["name"]),
            bool(row["filled"]),
            json.loads(row["labels"]),
        )

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if len(parts) > 2 or not all(NAME.match(part) for part in parts):
            raise Fault("request-invalid", "use volume", name, "it is not a volume name")
        return self._paths.volumes.joinpath(*parts, "_data")

    def _lock(self, name: str) -> threading.Lock:
        with self._locks_lock:
            return self._locks.setdefault(name, threading.Lock())


def _bind_source(mount: MountPoint, container: str) -> str:
    """The source, made as a directory where the short form asks for it. Fault mount-source-missing."""
    if not os.path.exists(mount.source):
        if not mount.create_source:
            cause = f"its source {mount.source} does not exist"
            raise Fault("mount-source-missing", "mount", f"{mount.target} of {container}", cause, "create it")
        with faults("create source of mount", f"{mount.target} of {container}"):
            os.makedirs(mount.source, mode=0o755, exist_ok=True)
    return mount.source


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
            raise


# ---------------------------------------------------------------- copying


def _copy_from_image(rootfs: Path, target: str, to: Path) -> bool:
    """Copy the directory `target` within `rootfs` to `to`; False when the image has no directory there."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        fd = openat2.open_in_root(root, target.lstrip("/"), flags, 0)
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        os.close(root)
    try:
        source = Path(f"/proc/self/fd/{fd}")
        _copy_directory(source, to, os.fstat(fd), {})
        _sync(to)
    finally:
        os.close(fd)
    return True


def _sync(path: Path) -> None:
    """Everything below is on the disk afterwards: files first, then the directories that name them."""
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            file = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(file).st_mode):
                _fsync(file, os.O_RDONLY)
        _fsync(directory, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: str, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy_directory(
    source: Path, to: Path, status: os.stat_result, linked: dict[tuple[int, int], Path]
) -> None:
    """A directory with all below it: owner, mode, times, xattrs, hard links, devices. Follows no link."""
    os.mkdir(to, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            _copy_entry(Path(entry.path), to / entry.name, entry.stat(follow_symlinks=False), linked)
    _copy_metadata(source, to, status)


def _copy_entry(source: Path, to: Path, status: os.stat_result, linked: dict[tuple[int, int], Path]) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        _copy_directory(source, to, status, linked)
        return
    if status.st_nlink > 1:
        first = linked.setdefault((status.st_dev, status.st_ino), to)
        if first is not to:
            os.link(first, to, follow_symlinks=False)
            return
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), to)
    elif stat.S_ISREG(mode):
        _copy_content(source, to)
    elif stat.S_ISSOCK(mode):
        return
    else:
        os.mknod(to, mode, status.st_rdev)
    _copy_metadata(source, to, status)


def _copy_content(source: Path, to: Path) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        writing = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while os.sendfile(writing, reading, None, _CHUNK):
                pass
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_metadata(source: Path, to: Path, status: os.stat_result) -> None:
    """Owner first, since chown clears setuid and capabilities. `source` may be a link of /proc/self/fd."""
    link = stat.S_ISLNK(status.st_mode)
    os.chown(to, status.st_uid, status.st_gid, follow_symlinks=False)
    if not link:
        os.chmod(to, stat.S_IMODE(status.st_mode))
    follow = stat.S_ISDIR(status.st_mode)  # the only case in which `source` is such a link
    for name in os.listxattr(source, follow_symlinks=follow):
        if not name.startswith("trusted.overlay."):
            try:
                os.setxattr(
                    to, name, os.getxattr(source, name, follow_symlinks=follow), follow_symlinks=False
                )
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
    os.utime(to, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
