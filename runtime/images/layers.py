"""Effects: unpacked layers, each under the name of its chain id. A directory there is complete and durable.

A layer is unpacked into `.<hex>` by a worker process (runtime.images.unpack) while this process decompresses
and verifies the diff id, then renamed. The temporary directory's flock is the lock of that chain id for
threads and processes alike: two pulls that share a layer unpack it once.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.faults import Fault, faults
from runtime.images.blobs import sync_directory
from runtime.images.compression import CompressionError
from runtime.linux import libc

PIPE_SIZE = 1024 * 1024  # bytes; what an unprivileged pipe may have (fs.pipe-max-size)
MAX_LAYER = 1 << 40  # bytes, uncompressed

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from runtime.images.unpack import main; sys.exit(main(sys.argv[2:]))"
)
_HOME = str(Path(__file__).parents[2])
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
    """One layer to unpack. `lowers` are the chain ids below it, bottom first; `data` yields its plain tar."""

    chain_id: str
    diff_id: str
    lowers: Sequence[str]
    data: Callable[[], Iterable[bytes]]


class LayerStore:
    """Layers by chain id under one directory. Thread-safe, and safe against other processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

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
                        shutil.rmtree(temporary)
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
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return size

    def _run(self, job: LayerJob, subject: str, target: Path) -> int:
        """Feed the worker; the digest of what it was given must be the diff id."""
        layers = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            worker = _start(target, layers, [self.path(lower).name for lower in reversed(job.lowers)])
        finally:
            os.close(layers)
        try:
            digest = _feed(worker, job, subject)
            result = _result(worker, subject)
        finally:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            for pipe in (worker.stdout, worker.stderr):
                assert pipe is not None
                pipe.close()
        if digest and digest != job.diff_id:
            raise Fault(
                "digest-mismatch", "unpack layer of", subject, f"its content is {digest}, not {job.diff_id}"
            )
        return int(result["bytes"])

    def remove(self, chain_id: str) -> None:
        """Out of sight at once, then off the disk."""
        final = self.path(chain_id)
        gone = self.directory / f".{final.name}"
        try:
            os.rename(final, gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)

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
                shutil.rmtree(path, ignore_errors=True)
                removed.append(f"half-unpacked layer {name[1:13]}")
            except BlockingIOError:
                pass
            finally:
                os.close(fd)
        return removed


def _is_still(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- the worker


def _start(target: Path, layers: int, lowers: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", "-c", _BOOT, _HOME, str(target), str(layers), *lowers]
    worker = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(layers,),
        cwd="/",
        env={},
        bufsize=0,
    )
    assert worker.stdin is not None
    try:
        fcntl.fcntl(worker.stdin.fileno(), fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # slower, not wrong
    return worker


def _feed(worker: subprocess.Popen[bytes], job: LayerJob, subject: str) -> str:
    """Returns the digest of the whole stream; empty when the worker gave up before its end."""
    assert worker.stdin is not None
    digest, size, pipe = hashlib.sha256(), 0, worker.stdin.fileno()
    with worker.stdin:
        try:
            for piece in job.data():
                size += len(piece)
                if size > MAX_LAYER:
                    raise _invalid(subject, f"it has more than {MAX_LAYER} bytes")
                digest.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(pipe, view) :]
        except BrokenPipeError:
            return ""
        except CompressionError as error:
            raise _invalid(subject, str(error)) from error
    return f"sha256:{digest.hexdigest()}"


def _result(worker: subprocess.Popen[bytes], subject: str) -> dict[str, Any]:
    assert worker.stdout is not None and worker.stderr is not None
    text, trouble = worker.stdout.read(), worker.stderr.read()
    code = worker.wait()
    try:
        result: dict[str, Any] = json.loads(text)
    except ValueError:
        last = trouble.decode(errors="replace").strip().splitlines()[-1:] or [f"status {code}"]
        raise Fault(
            "kernel-error", "unpack layer of", subject, f"the worker died: {last[0].lower()}"
        ) from None
    if "error" in result:
        raise _fault(result, subject)
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
