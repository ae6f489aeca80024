"""Effects: where a build works: a directory under `root/build` that its process holds by a lock, and overlays
that are mounted nowhere.

A step's changes go to a fresh directory over the layers below it, through an overlay mount that only has a
descriptor: whatever kills the build, the kernel lets go of it, and nothing is left but a directory that
nobody holds. `sweep` takes those, with the cgroup and the network namespace that a running step may have
had."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.faults import faults
from runtime.linux import trees
from runtime.paths import Paths

LOCK = "lock"
DIRECTORY = "build"
#: Where caches of RUN --mount=type=cache and memories of sums live beside the builds.
KEPT = ("cache", "sums", "git", "recipes")
SLICE = "stead.slice"


MARK = "build-"


def mark_of(build: str) -> str:
    return f"{MARK}{build}"


def cgroup_path(build: str, step: int | str) -> str:
    """Relative to the root of each hierarchy."""
    return f"{SLICE}/{mark_of(build)}-{step}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A layer in the making: `root` is the open overlay, `upper` what of it is new."""

    root: int
    upper: Path


class Workspace:
    """The directory of one build. Thread-safe. To be closed."""

    def __init__(self, paths: Paths, layers: Path) -> None:
        """`layers` is the directory of layers by chain id, on whose file system the work is done."""
        self._layers = layers
        self._count = itertools.count()
        self._bases: dict[str, int] = {}
        self._guard = threading.Lock()
        parent = paths.root / DIRECTORY
        with faults("begin build in", str(parent)):
            parent.mkdir(mode=0o700, exist_ok=True)
            self._lock = -1
            while self._lock < 0:
                self.id = secrets.token_hex(6)
                self.directory = parent / self.id
                self._lock = _held(self.directory)
            self.empty = self.new("empty")

    @property
    def mark(self) -> str:
        """What the names of its cgroups and leases begin with."""
        return mark_of(self.id)

    @property
    def lock(self) -> int:
        """The descriptor by which the build is seen to live: for a process that works for it."""
        return self._lock

    def new(self, name: str = "") -> Path:
        """A fresh directory of the build's own."""
        path = self.directory / (name or str(next(self._count)))
        path.mkdir(mode=0o700)
        return path

    def scratch(self) -> int:
        """An open file without a name."""
        return os.open(self.directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)

    def layer(self, chain_id: str) -> Path:
        return self._layers / chain_id.partition(":")[2]

    def lowers(self, chain: Sequence[str]) -> list[Path]:
        """Directories for an overlay, the top one first; an empty one where there is no layer."""
        return [self.layer(chain_id) for chain_id in reversed(chain)] or [self.empty]

    def upper(self, chain: Sequence[str]) -> Path:
        """A fresh directory for the changes of a step: its own owner and mode are those of `/`."""
        home = self.new()
        (home / "work").mkdir(mode=0o700)
        upper = home / "upper"
        upper.mkdir()
        upper.chmod(0o755)
        if chain:
            top = os.stat(self.layer(chain[-1]))
            os.chown(upper, top.st_uid, top.st_gid)
            os.chmod(upper, stat.S_IMODE(top.st_mode))
            os.utime(upper, ns=(top.st_mtime_ns, top.st_mtime_ns))
        return upper

    @contextmanager
    def draft(self, chain: Sequence[str], *, alone: bool = False) -> Iterator[Draft]:
        """An overlay over `chain` (bottom first) to write to; with `alone` over nothing (COPY --link). The
        upper directory is the caller's after the block; whatever is left of it goes with the build."""
        upper = self.upper(chain)
        lowers = [self.empty] if alone else self.lowers(chain)
        root = detached(lowers, upper, upper.with_name("work"))
        try:
            yield Draft(root, upper)
        finally:
            os.close(root)

    def base(self, chain: Sequence[str]) -> int:
        """A descriptor of what `chain` shows, read-only; kept until the build is closed."""
        key = chain[-1] if chain else ""
        with self._guard:
            if key not in self._bases:
                self._bases[key] = detached(self.lowers(chain), None, None)
            return self._bases[key]

    def close(self) -> None:
        """Nothing of the build stays. Repeatable."""
        if self._lock < 0:
            return
        for fd in self._bases.values():
            os.close(fd)
        self._bases.clear()
        trees.remove(self.directory, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _held(directory: Path) -> int:
    """The locked file of a new directory; -1 where a sweep took it away before it was locked."""
    directory.mkdir(mode=0o700)
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if (directory / LOCK).exists():
        return lock
    os.close(lock)
    return -1


def detached(lowers: Sequence[Path], upper: Path | None, work: Path | None, *, legacy: bool = False) -> int:
    """An overlay of `lowers` (TOP first) that is mounted nowhere: a descriptor of its root. It is gone when
    the last descriptor of anything in it is."""
    from runtime.linux import mounts, overlay

    if upper is None and len(lowers) == 1:
        tree = mounts.open_tree(lowers[0], recursive=False)
        mounts.set_attributes(tree, set=mounts.MOUNT_ATTR_RDONLY)
        return _opened(tree)
    try:
        if not legacy:
            return _opened(overlay.detached(lowers, upper, work))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    from runtime.inside import in_own_thread
    from runtime.linux import namespaces

    stage = (work or lowers[0]).parent

    def mounted() -> int:
        """In a mount namespace of this thread's own, which takes the mount's place with it."""
        namespaces.unshare(namespaces.CLONE_FS | namespaces.CLONE_NEWNS)
        mounts.make_private("/", kind="rprivate")
        overlay.mount(lowers, upper, work, stage, legacy=True)
        return mounts.open_tree(stage, recursive=False)

    return _opened(in_own_thread(mounted))


def _opened(tree: int) -> int:
    """A descriptor for reading instead of the O_PATH one: fstat, openat and listing work the same by both,
    but flock and scandir want this."""
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    finally:
        os.close(tree)
