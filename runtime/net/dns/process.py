"""Effects: the process `stead-names`, one a state directory: `python -I -S process.py RUN`.

It belongs to nobody once it runs: the agent may end, be killed or be replaced, and names are answered all the
same. It reads what documents.py tells of and asks no database. It ends when there is no network any more, or
no container for a while; whoever starts a container starts it again. Of two, the second waits for the first.
"""

from __future__ import annotations

import os
import sys

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
        lock = _lock(run)
        _settle()
        _serve(run)
        os.close(lock)
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


def _lock(run: str) -> int:
    """Held until we end. OSError when another server does not end in time."""
    import fcntl
    import time

    from runtime.net.dns import documents

    path = f"{run}/{documents.DIRECTORY}/{documents.LOCK}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.005)  # between two attempts


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

    from runtime.net.dns import documents, server, upstreams, watch
    from runtime.shim.loop import Loop

    path = f"{run}/{documents.DIRECTORY}/{documents.STATE}"

    def write(state: documents.State) -> None:
        try:
            _replace(path, documents.encode_state(state))
        except OSError:
            pass  # the directory is being removed, or the disk is full: the answers matter more

    loop, followed = Loop(), watch.Watch(run)
    serving = server.Server(loop, followed, upstreams.Upstreams(), write)
    gc.collect()
    gc.freeze()
    while True:
        loop.run()
        _unlink(path)  # who starts a container from now on starts another server, which waits for our end
        followed.drain()
        if followed.gone or not len(followed.zone):
            break
        loop.ended = False
        serving.tell(again=True)
    serving.close()


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
