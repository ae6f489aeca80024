"""Values: where everything lies on disk (architecture, section 4). Pure path arithmetic, plus writing at once
and removing whole trees.
"""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from functools import lru_cache
from pathlib import Path
from threading import get_native_id

from runtime.roots import ROOT, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class _Directories(NamedTuple):
        root: Path
        run: Path
else:
    _Directories = namedtuple("_Directories", "root run")

DEFAULT_ROOT = Path(ROOT)
DEFAULT_RUN = Path(RUN)


class Paths(_Directories):
    """`root` survives a reboot, `run` does not. Both are 0700 and owned by root."""

    __slots__ = ()

    def __new__(cls, root: Path = DEFAULT_ROOT, run: Path = DEFAULT_RUN) -> Paths:
        # no dataclass: their import is a quarter of the time that a cached build takes
        return super().__new__(cls, root, run)

    # -- root
    @property
    def database(self) -> Path:
        return self.root / "stead.db"

    @property
    def journal(self) -> Path:
        return self.root / "journal.db"

    @property
    def rollouts(self) -> Path:
        return self.root / "rollouts.db"

    @property
    def lock(self) -> Path:
        """flock'ed by the one agent (or `stead apply`) that holds this root; holds its pid as text."""
        return self.root / "lock"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def sources(self) -> Path:
        return self.root / "sources"

    @property
    def events(self) -> Path:
        """runtime.events: now.jsonl, and those that are full."""
        return self.root / "events"

    def container(self, id: str) -> Path:
        """config.json, supervise.json, upper/, work/, log/, hosts, hostname, resolv.conf, exit.json"""
        return _of_container(self.root, id)

    # -- run
    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def events_socket(self) -> Path:
        return self.run / "events.sock"

    def live(self, id: str) -> Path:
        """state.json, shim.sock, rootfs/ (mount point of the overlay), netns (bind of the network
        namespace)
        """
        return _of_container(self.run, id)

    def rootfs(self, id: str) -> Path:
        return _of_container(self.run, id, "rootfs")

    def netns(self, id: str) -> Path:
        return _of_container(self.run, id, "netns")

    def make(self) -> None:
        """Create both trees with mode 0700. Repeatable. A group may have been let through `run`, to the
        agent's socket."""
        for path, mode in ((self.root, 0o700), (self.run, 0o710)):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.stat(path).st_mode & 0o7777 & ~mode:
                os.chmod(path, 0o700)
        for path in (
            self.blobs,
            self.layers,
            self.volumes,
            self.sources,
            self.root / "containers",
            self.events,
        ):
            path.mkdir(parents=True, exist_ok=True)
        (self.run / "containers").mkdir(mode=0o700, exist_ok=True)
        os.chmod(self.run / "containers", 0o700)


#: in the live directory of a container with ids of its own: its user namespace, bound
USERNS = "userns"


@lru_cache(maxsize=512)
def _of_container(base: Path, *names: str) -> Path:
    """Asked for dozens of times in each action on a container, and pathlib takes its time."""
    return base.joinpath("containers", *names)


def beside(path: Path) -> Path:
    """A temporary name for what is to become `path`: no other thread of any process that lives has the same
    (gettid(2): threads are numbered as processes are). A crash may have left a file there."""
    return path.with_name(f".{path.name}.{get_native_id()}.tmp")


def remove_temporaries(directory: Path) -> None:
    """Those of `beside` whose thread has died with them. Harmless beside others that write."""
    for name in os.listdir(directory):
        thread = name.removesuffix(".tmp").rpartition(".")[2]
        ours = name.startswith(".") and name.endswith(".tmp") and thread.isdigit()
        if ours and not os.path.exists(f"/proc/{thread}"):
            directory.joinpath(name).unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by `data`: temporary name, fsync, rename, fsync of the directory. No reader sees half
    a file. Threads and processes may write the same path at once: the last one holds.

    `durable=False` leaves out both fsyncs: for files under `run`, which no power cut survives anyway.
    """
    temporary = beside(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def delete_tree(path: Path) -> None:
    """`rm -r`; what another thread removes meanwhile is not missed, what it adds meanwhile goes as well."""
    from runtime.linux import trees  # not for commands that only read

    for last in (False, False, True):
        try:
            trees.remove(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if last or error.errno != errno.ENOTEMPTY:
                raise
