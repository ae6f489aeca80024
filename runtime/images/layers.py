"""Effects: unpacked layers, each under the name of its chain id. A directory there is complete and durable.

A layer is unpacked into `.<hex>` by a worker process (runtime.images.worker), and renamed when its content
has the diff id. The temporary directory's flock is the lock of that chain id for threads and processes alike:
two pulls that share a layer unpack it once. Layers of one image may be unpacked at the same time.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.faults import Fault, faults
from runtime.images.blobs import sync_directory
from runtime.linux import libc, trees

PIPE_SIZE = 1024 * 1024  # bytes; what an unprivileged pipe may have (fs.pipe-max-size)
MAX_REPORT = 64 * 1024  # bytes that a worker may say

_BOOT = "import sys; sys.path += sys.argv[1].split(chr(10)); from runtime.images.worker import start; start()"
_ARCHIVE_TO_BLAME = frozenset(
    {
        0,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ERANGE,
        errno.EFBIG,
        errno.E2BIG,
        errno.EPERM,
    }
)


def chain_ids(diff_ids: Iterable[str]) -> tuple[str, ...]:
    """One id for each prefix of the layers, bottom first (OCI image-spec, config.md#layer-chainid)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else diff_id)
    return tuple(chain)


@dataclass(frozen=True, slots=True)
class LayerJob:
    """One layer to unpack. `lowers` are the chain ids below it, bottom first; `data` yields its archive,
    compressed or not; `ready` returns when the layers below are there, and raises when they never will be.
    """

    chain_id: str
    diff_id: str
    lowers: Sequence[str]
    data: Callable[[], Iterable[bytes]]
    ready: Callable[[], None] = lambda: None


class LayerStore:
    """Layers by chain id under one directory. Thread-safe, and safe against other processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._rotten = directory.with_name("rotten")

    def path(self, chain_id: str) -> Path:
        return self.directory / chain_id.partition(":")[2]

    def has(self, chain_id: str) -> bool:
        return os.path.isdir(self.path(chain_id))

    def chain_ids(self) -> list[str]:
        return [f"sha256:{name}" for name in os.listdir(self.directory) if not name.startswith(".")]

    def unpack(self, job: LayerJob, subject: str) -> int | None:
        """Make sure that the layer is there. Returns its size in bytes, or None when it was there already.

        Fault layer-invalid names the offending entry; digest-mismatch; disk-full. Then nothing is left.
        """
        final = self.path(job.chain_id)
        temporary = self.directory / f".{final.name}"
        with faults("unpack layer of", subject):
            while not final.exists():
                try:
                    os.mkdir(temporary, 0o700)
                except FileExistsError:
                    pass
                try:
                    fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                    if not _is_still(fd, temporary):
                        continue
                    if final.exists() or os.listdir(temporary):
                        trees.remove(temporary)
                        continue
                    return self._make(job, subject, fd, temporary, final)
                finally:
                    os.close(fd)
        return None

    def _make(self, job: LayerJob, subject: str, fd: int, temporary: Path, final: Path) -> int:
        try:
            size = self._run(job, subject, temporary)
            libc.call("syncfs", fd, subject=str(temporary))
            os.rename(temporary, final)
            sync_directory(self.directory)
        except BaseException:
            trees.remove(temporary, ignore_errors=True)
            raise
        return size

    def _run(self, job: LayerJob, subject: str, target: Path) -> int:
        """Feed the worker; the digest of what it made of it must be the diff id."""
        layers = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            worker = _Worker(
                target, layers, [self.path(lower).name for lower in reversed(job.lowers)], subject
            )
        finally:
            os.close(layers)
        with worker:
            worker.feed(job.data())
            found = worker.hear()["digest"]
            if found != job.diff_id:
                cause = f"its content is {str(found)[:100]}, not {job.diff_id}"
                raise Fault("digest-mismatch", "unpack layer of", subject, cause)
            job.ready()
            worker.go()
            return int(worker.hear()["bytes"])

    @contextmanager
    def aside(self, job: LayerJob, subject: str) -> Iterator[Path]:
        """The layer unpacked once more, to be looked at; gone afterwards. Faults as of `unpack`."""
        temporary = self.directory / f".{job.chain_id.partition(':')[2]}.{os.getpid()}.{time.monotonic_ns()}"
        with faults("unpack layer of", subject):
            os.mkdir(temporary, 0o700)
            fd = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._run(job, subject, temporary)
                yield temporary
            finally:
                trees.remove(temporary, ignore_errors=True)
                os.close(fd)

    def set_aside(self, chain_id: str) -> None:
        """Out of the layers at once, and off the disk only when nothing can have it mounted any more."""
        self._rotten.mkdir(mode=0o700, exist_ok=True)
        place = self._rotten / f"{self.path(chain_id).name}.{_boot()}.{time.monotonic_ns()}"
        try:
            os.rename(self.path(chain_id), place)
        except FileNotFoundError:
            return
        sync_directory(self.directory)

    def clear_aside(self, mounted: Collection[str]) -> None:
        """Delete what was set aside, but for the chain ids that containers may have mounted since."""
        for name in os.listdir(self._rotten) if self._rotten.exists() else ():
            layer, boot = name.split(".")[:2]
            if boot != _boot() or f"sha256:{layer}" not in mounted:
                trees.remove(self._rotten / name, ignore_errors=True)

    def hide(self, chain_id: str) -> Path | None:
        """Out of sight at once, under a name that nothing else ever has, for `discard`; None: it is not here.
        What a crash leaves of it is swept."""
        gone = self.directory / f".{self.path(chain_id).name}.{os.getpid()}.{time.monotonic_ns()}"
        try:
            os.rename(self.path(chain_id), gone)
        except FileNotFoundError:
            return None
        return gone

    @staticmethod
    def discard(hidden: Path) -> None:
        """Off the disk, which may take as long as there are many files."""
        trees.remove(hidden, ignore_errors=True)

    def sweep(self) -> list[str]:
        """Remove what a crash left half-unpacked and nobody is working on."""
        removed: list[str] = []
        for name in os.listdir(self.directory):
            if not name.startswith("."):
                continue
            path = self.directory / name
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                trees.remove(path, ignore_errors=True)
                removed.append(f"half-unpacked layer {name[1:13]}")
            except BlockingIOError:
                pass
            finally:
                os.close(fd)
        return removed


def _boot() -> str:
    """Of this boot of the machine; no mount outlives it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_still(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- the worker


def module_path() -> str:
    """Where the worker finds its modules: ours, and those of the decompressors that are installed."""
    found = [str(Path(__file__).parents[2])]
    for name in ("isal", "backports"):
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (parent := os.path.dirname(place)) not in found:
                found.append(parent)
    return "\n".join(found)


class _Worker:
    """A running worker; it ends with the context, whatever it is at."""

    def __init__(self, target: Path, layers: int, lowers: Sequence[str], subject: str) -> None:
        self._subject = subject
        control, self._control = os.pipe()
        words = [str(target), str(layers), str(control), *lowers]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, module_path(), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(layers, control),
                cwd="/",
                env={},
                bufsize=0,
            )
        except BaseException:
            os.close(self._control)
            raise
        finally:
            os.close(control)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._control)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def feed(self, pieces: Iterable[bytes]) -> None:
        """Give it the archive, as far as it wants it: it may have given up, and will say why."""
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            pass  # slower, not wrong
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[os.write(pipe, view) :]
        except BrokenPipeError:
            pass
        self._process.stdin.close()

    def go(self) -> None:
        """The layers below are there."""
        try:
            os.write(self._control, b"g")
        except BrokenPipeError:
            pass

    def hear(self) -> dict[str, Any]:
        """Its next report. Fault where something went wrong."""
        assert self._process.stdout is not None and self._process.stderr is not None
        try:
            result: object = ast.literal_eval(self._process.stdout.readline(MAX_REPORT).decode())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            result = None
        if not isinstance(result, dict):
            trouble = self._process.stderr.read(MAX_REPORT).decode(errors="replace")
            code = self._process.wait()
            last = trouble.strip().splitlines()[-1:] or [f"status {code}"]
            cause = f"the worker died: {last[0].lower()}"
            raise Fault("kernel-error", "unpack layer of", self._subject, cause)
        if "error" in result:
            raise _fault(result, self._subject)
        return result


def _fault(result: dict[str, Any], subject: str) -> Fault:
    number, cause = int(result["errno"]), f"{result['error']}"
    if result["entry"]:
        cause = f"entry {result['entry']!r}: {cause}"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return Fault("disk-full", "unpack layer of", subject, cause)
    if number in _ARCHIVE_TO_BLAME:
        return _invalid(subject, cause)
    return Fault("kernel-error", "unpack layer of", subject, cause)


def _invalid(subject: str, cause: str) -> Fault:
    return Fault("layer-invalid", "unpack layer of", subject, cause)
