"""Effects: from a freshly forked process to a shim that watches its container."""

from __future__ import annotations

import ctypes
import fcntl
import os
import time

from runtime.linux import cgroups as cgroup_files
from runtime.linux import libc, pidfd, signals
from runtime.shim import documents, early, keeper, launch, messages, monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Mapping
    from typing import Any

#: Lower than any container's process, above init's own -1000.
OOM_SCORE = -998
#: Seconds that an older shim of the same container is given to end.
HANDOVER = 15.0

PR_SET_NAME = 15
_NAME = ctypes.create_string_buffer(b"stead-shim")
_NAME_AT = ctypes.addressof(_NAME)


def _read(request: Mapping[str, Any]) -> documents.Bundle:
    """What a spawn request names. OSError, ValueError, KeyError."""
    path = str(request["bundle"])
    supervise, config = (documents.read(path, name) for name in ("supervise.json", "config.json"))
    return documents.Bundle(path, str(request["live"]), supervise, config)


def run(data: bytes, report: int, host: cgroup_files.Cgroups, noted: keeper.Handler) -> None:
    """Be the shim that the request `data` asks for until its container is to be left alone. `report` gives
    messages.GO and gets one answer: see the zygote."""
    libc.prctl(PR_SET_NAME, _NAME_AT)
    if messages.KEEP not in data:
        signals.handle(signals.SIGCHLD, noted)
        libc.prctl(keeper.PR_SET_CHILD_SUBREAPER, 1)
        _start(data, report, host, os.getpid(), None)
        return

    def start(own: int, line: _socket.socket) -> None:
        _start(data, report, host, own, line)

    taken = keeper.run(report, noted, start)
    if taken is not None:
        _go_on(data, host, taken)


def _start(
    data: bytes, report: int, host: cgroup_files.Cgroups, pid: int, line: _socket.socket | None
) -> None:
    """Start the program and watch it; with a line to a keeper only until it runs. `pid` is what the shim is
    known by. All is made with messages.GO; the program runs with messages.RUN, and not without."""
    request = messages.decode(data)
    lock, first = _await(request, report, host, pid)
    bundle = _read(request)
    if lock < 0:
        lock = _take_over(bundle.path, pid, host, str(bundle.supervise["cgroup"]))
    shim: monitor.Monitor | None = None
    hold, release = (None, first.gate) if first is not None else os.pipe2(os.O_CLOEXEC)

    def may_run() -> None:
        assert shim is not None
        shim.loop.forget(report)
        if os.read(report, len(messages.RUN)) == messages.RUN:
            early.open_gate(release)
        else:
            shim.abandon()
        os.close(release)

    def tell(failure: launch.Failure | None, pid: int) -> None:
        if shim is not None:
            shim.loop.forget(report)
        send_report(report, failure, pid, shim_pid)
        os.close(report)

    def started() -> None:
        given = shim.handover(lock) if shim is not None and line is not None else None
        if given and line is not None and keeper.give(line, *given):
            os._exit(0)

    shim_pid = pid
    try:
        shim = monitor.Monitor(bundle, host, tell, pid=pid, started=started, hold=hold, first=first)
        _watch_signals(shim, _wakes())
        shim.start()
        if not shim.loop.ended:
            shim.loop.watch(report, may_run)
        shim.loop.run()
    except BaseException as error:
        if shim is not None:
            _crashed(shim, error)
        raise


def _go_on(data: bytes, host: cgroup_files.Cgroups, taken: keeper.Taken) -> None:
    """A keeper becomes a whole shim."""
    with open(taken.document, "rb") as file:
        file.seek(0)  # the starter wrote through the same open file
        run = messages.decode(file.read())
    request = messages.decode(data)
    bundle = documents.Bundle(str(request["bundle"]), str(request["live"]), run["supervise"], run["config"])
    shim: monitor.Monitor | None = None
    try:
        shim = monitor.Monitor(bundle, host, None, pid=os.getpid(), taken=taken, run=run)
        _watch_signals(shim, taken.wakes)
        if taken.told:
            shim.stop_by_document(monitor.SHUTDOWN)
        shim.loop.run()
    except BaseException as error:
        if shim is not None:
            _crashed(shim, error)
        raise


def _await(
    request: Mapping[str, Any], report: int, host: cgroup_files.Cgroups, pid: int
) -> tuple[int, early.Early | None]:
    """Until all is made, or nobody is left who would say so. Returns the bundle's lock and the container's
    first process, if they could be had meanwhile: -1, None."""
    lock, first = -1, None
    if early.is_possible(request):
        lock = _take_over(str(request["bundle"]), pid, host, str(request["cgroup"]))
        first = early.Early(request, host)
    word = os.read(report, messages.MAX_WORD)
    if first is not None and word != messages.GROUND:
        first.close()
        first = None
    if word == messages.GROUND:
        if first is not None and not first.fork(str(request["bundle"])):
            first = None
        word = os.read(report, messages.MAX_WORD)
    if word == messages.GO:
        if first is not None and first.has_ended():  # killed while it waited: the end of its report would
            first.abandon()  # say that the program runs
            first = None
        if first is not None:
            first.go()
        return lock, first
    if first is not None:
        first.abandon()
    os._exit(0)  # who asked for a shim has none to start


def _take_over(bundle: str, own: int, host: cgroup_files.Cgroups, cgroup: str) -> int:
    """At most one shim a bundle: the lock holds the pid of the one there is, which is told to end. What one
    that was killed has left in the cgroup is killed. Returns the lock."""
    lock = os.open(f"{bundle}/{messages.LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
    others = os.fstat(lock).st_size > 0
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{own} {pidfd.start_time(own)}\n".encode(), 0)
    if others and host.pids(cgroup):
        host.kill(cgroup, monitor.KILL_TIMEOUT)
    return lock


def _wakes() -> int:
    """A pipe that gives the numbers of signals that came: the zygote has set handlers that do nothing."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signals.wake(writer)
    return reader


def _watch_signals(shim: monitor.Monitor, reader: int) -> None:
    """SIGTERM ends the shim with its container; SIGCHLD brings orphans that came to us as their reaper."""

    def woken() -> None:
        numbers = os.read(reader, 512)
        if signals.SIGTERM in numbers:
            shim.stop_by_document(monitor.SHUTDOWN)
        reap_orphans(shim)

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


def refuse(report: int, error: BaseException) -> None:
    """It did not come to a start. Harmless after another answer."""
    send_report(report, launch.Failure("shim", f"cannot start supervisor: {error}"), 0, 0)


def send_report(report: int, failure: launch.Failure | None, pid: int, shim: int) -> None:
    """How the first start went, for the client of the zygote."""
    if failure is None:
        message: dict[str, Any] = {"ok": True, "pid": pid, "shim": shim}
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
