"""Effects: from a freshly forked process to a shim that watches its container."""

from __future__ import annotations

import ctypes
import fcntl
import os
import time

from runtime.linux import cgroups as cgroup_files
from runtime.linux import libc, pidfd, signals
from runtime.shim import launch, messages, monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LOCK = "shim.lock"
#: Bytes of a document of a bundle.
MAX_DOCUMENT = 16 << 20
#: Lower than any container's process, above init's own -1000.
OOM_SCORE = -998
#: Seconds that an older shim of the same container is given to end.
HANDOVER = 15.0

PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 15, 36
_NAME = ctypes.create_string_buffer(b"stead-shim")


def read(request: Mapping[str, Any]) -> monitor.Bundle:
    """What a spawn request names. OSError, ValueError, KeyError."""
    path = str(request["bundle"])
    documents = []
    for name in ("supervise.json", "config.json"):
        fd = os.open(f"{path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            documents.append(messages.decode(os.read(fd, min(os.fstat(fd).st_size, MAX_DOCUMENT))))
        finally:
            os.close(fd)
    return monitor.Bundle(path, str(request["live"]), *documents)


def run(bundle: monitor.Bundle, report: int, host: cgroup_files.Cgroups) -> None:
    """Be the shim of one container until it is to be left alone. `report` gets one answer: see the zygote."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):  # 0 was the socket to the agent
        os.dup2(null, fd, inheritable=False)
    os.close(null)
    libc.prctl(PR_SET_NAME, ctypes.addressof(_NAME))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    launch.oom_score(OOM_SCORE)
    _take_over(bundle.path)
    shim: monitor.Monitor | None = None

    def tell(failure: launch.Failure | None, pid: int) -> None:
        send_report(report, failure, pid)
        os.close(report)

    try:
        shim = monitor.Monitor(bundle, host, tell)
        if host.pids(shim.cgroup):  # of a shim that was killed
            host.kill(shim.cgroup, monitor.KILL_TIMEOUT)
        _watch_signals(shim)
        shim.start()
        shim.loop.run()
    except BaseException as error:
        if shim is not None:
            _crashed(shim, error)
        raise


def _take_over(bundle: str) -> None:
    """At most one shim a bundle: the lock holds the pid of the one there is, which is told to end."""
    lock = os.open(f"{bundle}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + HANDOVER
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).split()
            late = time.monotonic() > end
            if len(holder) == 2:
                pidfd.kill(int(holder[0]), int(holder[1]), signals.SIGKILL if late else signals.SIGTERM)
            if late:
                end += HANDOVER
            time.sleep(0.02)  # flock(2) has no time limit, and its end gives no event
    os.ftruncate(lock, 0)
    own = os.getpid()
    os.pwrite(lock, f"{own} {pidfd.start_time(own)}\n".encode(), 0)


def _watch_signals(shim: monitor.Monitor) -> None:
    """SIGTERM ends the shim with its container; SIGCHLD brings orphans that came to us as their reaper."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def woken() -> None:
        numbers = os.read(reader, 512)
        if signals.SIGTERM in numbers:
            shim.stop_by_document(monitor.SHUTDOWN)
        reap_orphans(shim)

    signals.wake(writer)  # the zygote has set handlers that do nothing
    shim.loop.watch(reader, woken)


def reap_orphans(shim: monitor.Monitor) -> None:
    """Wait for dead children that nobody holds by pidfd: those of a container in the host's pid namespace."""
    if shim.launcher.private_pids:
        return
    skip = shim.known_pids()
    try:
        with open("/proc/thread-self/children", "rb") as file:
            children = [int(pid) for pid in file.read().split()]
    except OSError:
        return
    for pid in children:
        if pid not in skip:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass


def _crashed(shim: monitor.Monitor, error: BaseException) -> None:
    """A bug of ours: the container must not run on without anyone who watches it."""
    import traceback

    shim.note("".join(traceback.format_exception(error)))
    shim.kill_all()


def send_report(report: int, failure: launch.Failure | None, pid: int) -> None:
    """How the first start went, for the client of the zygote."""
    if failure is None:
        message: dict[str, Any] = {"ok": True, "pid": pid, "shim": os.getpid()}
    else:
        message = {
            "ok": False,
            "stage": failure.stage,
            "message": failure.message,
            "exit_code": failure.exit_code,
        }
    try:
        os.write(report, messages.encode(message))
    except OSError:
        pass
