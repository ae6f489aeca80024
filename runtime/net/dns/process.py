"""Effects: the process `stead-names`, one a state directory: `python -I -S process.py RUN`.

It belongs to nobody once it runs: the agent may end, be killed or be replaced, and names are answered all the
same. It reads what documents.py tells of and asks no database. It ends when there is no network any more, or
no container for a while; whoever starts a container starts it again. Of two, the second waits for the first,
or takes its place where it is newer (handover.py).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.net.dns.handover import Given

#: Descriptors: one for each question that is forwarded, and each connection.
OPEN_FILES = 4096
#: Seconds for which another server of the same directory is waited for, which is about to end.
PATIENCE = 5.0


def main(run: str) -> int:
    """Serve until there is nothing to serve for. Started by service.py, which waits for the first half."""
    os.chdir("/")
    os.umask(0o077)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd, inheritable=False)
    try:
        _settle()
        _serve(run)
    except BaseException as error:
        _note(run, error)
        raise
    return 0


def _note(run: str, error: BaseException) -> None:
    """Why it ended, for who waits for it."""
    try:
        with open(f"{run}/names/error", "w") as file:
            file.write(str(error) or repr(error))
    except OSError:
        pass  # the directory went, which is then the reason


def _lock(run: str) -> tuple[int, list[Given]]:
    """The lock, held until it is closed, and the sockets of an older server. OSError when another one, which
    is not older, does not end in time."""
    import fcntl
    import time

    from runtime.net.dns import documents, handover

    path = f"{run}/{documents.DIRECTORY}/{documents.LOCK}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PATIENCE
    given: list[Given] = []
    asked = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd, given
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        if not asked:
            asked, given = True, handover.take(run)
            if not given:
                _end_older(f"{run}/{documents.DIRECTORY}/{documents.STATE}")
        time.sleep(0.005)  # between two attempts


def _end_older(path: str) -> None:
    """A server of an older release that does not give way: it is stuck, or has nothing to give."""
    from runtime.linux import pidfd
    from runtime.net.dns import documents
    from runtime.net.dns.release import release

    try:
        with open(path, "rb") as file:
            state = documents.decode_state(file.read(documents.MAX_SIZE))
    except (OSError, ValueError):
        return
    if state.release < release():
        pidfd.kill(state.pid, state.start)


def _settle() -> None:
    """Name, cgroup, limits; of root's powers only what binding port 53 needs."""
    import ctypes
    import resource
    import signal

    from runtime.linux import capabilities, cgroups, libc
    from runtime.shim import birth, launch

    libc.prctl(15, ctypes.addressof(ctypes.create_string_buffer(b"stead-names")))  # PR_SET_NAME
    for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    host = cgroups.detect()
    host.create("stead.slice/names")
    host.add("stead.slice/names", 0)
    launch.oom_score(birth.OOM_SCORE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, OPEN_FILES), most))
    kept = capabilities.mask(["CAP_NET_BIND_SERVICE"])
    capabilities.drop_bounding(kept)
    capabilities.clear_ambient()
    capabilities.set_sets(kept, kept, 0)
    libc.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS


def _serve(run: str) -> None:
    import gc

    from runtime.net.dns import documents, handover, server, upstreams, watch
    from runtime.shim.loop import Loop

    path = f"{run}/{documents.DIRECTORY}/{documents.STATE}"

    def write(state: documents.State) -> None:
        try:
            _replace(path, documents.encode_state(state))
        except OSError:
            pass  # the directory is being removed, or the disk is full: the answers matter more

    loop, followed = Loop(), watch.Watch(run)  # all that takes time, before an older server stops
    lock, given = _lock(run)
    serving = server.Server(loop, followed, upstreams.Upstreams(), write, given)
    handover.Door(loop, run, serving.retire, lambda: os.close(lock))
    gc.collect()
    gc.freeze()
    while True:
        loop.run()
        if serving.retired:
            break
        _unlink(path)  # who starts a container from now on starts another server, which waits for our end
        followed.drain(whole=True)
        if followed.gone or not len(followed.zone):
            break
        loop.ended = False
        serving.tell(again=True)
    serving.close()
    if not serving.retired:
        os.close(lock)


def _replace(path: str, data: bytes) -> None:
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


if __name__ == "__main__":
    # -I leaves out the directory that our packages are in
    here = os.path.abspath(__file__)
    for _ in range(4):
        here = os.path.dirname(here)
    sys.path.insert(0, here)
    sys.exit(main(sys.argv[1]))
