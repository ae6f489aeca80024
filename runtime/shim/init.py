"""Effects: a freshly forked process becomes a container's program, or a program inside a running container.

Nothing here returns: it ends in execve(2) or, after one JSON object on the report pipe, in _exit(2) with 125,
126 or 127. The pipe is close-on-exec, so that its end without bytes says that the program runs. The order
follows from what each step takes away: what belongs to the shim goes first, files of the host are read before
the root changes, mounts are made before paths are masked, identity goes before the system call filter, which
is last. OCI runtime-spec, config-linux.md; pivot_root(2).
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from pathlib import Path

from runtime.linux import libc, namespaces, signals
from runtime.shim import identity, root, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Config = dict[str, Any]

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
_MAX_FILTER = 1 << 20
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_NAMESPACED_KERNEL = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


class StartError(Exception):
    """Why the program cannot be started, with the exit code that says it."""

    def __init__(self, message: str, code: int = FAILED, number: int = 0) -> None:
        super().__init__(message)
        self.message, self.code, self.number = message, code, number


class Stage:
    """The step under way, for the report."""

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name = "begin"


def run_init(
    config: Config,
    *,
    rootfs: Path,
    stdio: tuple[int, int, int],
    console_socket: int | None,
    report_fd: int,
) -> NoReturn:
    """The container's first process: namespaces that it does not have yet, its root, then its program.

    The caller has put it into its cgroup and its pid and network namespaces.
    """
    stage = Stage()
    try:
        _seclude(*stdio, console_socket, report_fd)
        _give_streams(stdio, config["process"], report_fd)
        program_filter = _read_filter(config)
        stage.name = "namespaces"
        spaces = {entry["type"] for entry in config["linux"]["namespaces"]}
        shared = {
            entry["type"]: entry["path"] for entry in config["linux"]["namespaces"] if entry.get("path")
        }
        _join(shared)
        own = [kind for kind in ("mount", "uts", "ipc", "cgroup") if kind in spaces and kind not in shared]
        namespaces.unshare(sum(namespaces.FLAGS[kind] for kind in own))
        spaces -= {"uts"} & shared.keys()
        stage.name = "hostname"
        _set_names(config, spaces)
        stage.name = "sysctls"
        _set_sysctls(config["linux"].get("sysctl") or {}, spaces)
        stage.name = "root filesystem"
        slave = root.build(config, rootfs, console_socket, stage)
        _become(config, config["process"], stdio, slave, program_filter, stage)
    except BaseException as error:
        _report(report_fd, stage, error)


def run_exec(
    config: Config,
    process: Config,
    *,
    init_pidfd: int,
    stdio: tuple[int, int, int],
    console_socket: int | None,
    report_fd: int,
    reaper: bool = False,
) -> NoReturn:
    """A further process of a running container: all its namespaces, the same limits and the same filter.

    The caller has put it into the cgroup and, by its fork, into the pid namespace. `reaper`: whatever it
    starts stays below it for as long as it lives, also what would go to PID 1 otherwise.
    """
    stage = Stage()
    try:
        _seclude(*stdio, console_socket, report_fd, init_pidfd)
        _give_streams(stdio, process, report_fd)
        if reaper:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, subject="PR_SET_CHILD_SUBREAPER")
        program_filter = _read_filter(config)
        stage.name = "namespaces"
        kinds = [entry["type"] for entry in config["linux"]["namespaces"] if entry["type"] != "pid"]
        namespaces.setns(init_pidfd, sum(namespaces.FLAGS[kind] for kind in kinds))
        slave = None
        if process.get("terminal") and console_socket is not None:
            stage.name = "terminal"
            top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            slave = tty.open_terminal(top, console_socket)
        _become(config, process, stdio, slave, program_filter, stage)
    except BaseException as error:
        _report(report_fd, stage, error)


# ---------------------------------------------------------------- the first steps, the same for both


def _seclude(*kept: int | None) -> None:
    """Leave nothing of the shim to the container: no descriptor but these (a working directory of
    /proc/self/fd/N would lead out of the root: CVE-2024-21626), no look into our memory and descriptors from
    within its pid namespace (CVE-2016-9962; exec undoes it), and no module that is found in its files."""
    libc.prctl(_PR_SET_DUMPABLE, 0, subject="PR_SET_DUMPABLE")
    sys.meta_path.clear()
    os.setsid()
    first = 3
    for fd in sorted({fd for fd in kept if fd is not None and fd > 2}):
        libc.close_range(first, fd - 1)
        first = fd + 1
    libc.close_range(first)


def _give_streams(stdio: tuple[int, int, int], process: Config, report_fd: int) -> None:
    """A pipe belongs to its maker, and a program of another user opens /dev/stdout by name: it becomes the
    user's. Pipes without a name only, which are on the same filesystem as ours."""
    uid, pipes = int(process["user"].get("uid") or 0), os.fstat(report_fd).st_dev
    for fd in stdio:
        found = os.fstat(fd)
        if found.st_dev == pipes and stat.S_ISFIFO(found.st_mode) and found.st_uid != uid:
            os.fchown(fd, uid, -1)


# ---------------------------------------------------------------- the last steps, the same for both


def _become(
    config: Config,
    process: Config,
    stdio: tuple[int, int, int],
    slave: int | None,
    program_filter: bytes,
    stage: Stage,
) -> NoReturn:
    stage.name = "terminal" if slave is not None else "standard streams"
    if slave is not None:
        tty.take(slave, process["user"])
        stdio = (slave, slave, slave)
    copies = [os.dup(fd) for fd in stdio]  # above 2, and close-on-exec
    for number, fd in enumerate(copies):
        os.dup2(fd, number, inheritable=True)
    stage.name = "limits"
    identity.set_rlimits(process.get("rlimits") or ())
    stage.name = "working directory"
    _change_directory(str(process.get("cwd") or "/"))
    stage.name = "descriptors"
    libc.close_on_exec(3)
    signals.default_all()  # Python ignores SIGPIPE and SIGXFSZ
    stage.name = "identity"
    identity.assume(process, program_filter)
    stage.name = "exec"
    environment = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
    _execute([str(word) for word in process["args"]], environment)


def _change_directory(path: str) -> None:
    """Docker makes a missing working directory, as root. One that the root does not reach is refused: a link
    of /proc may lead anywhere (getcwd(3) says ENOENT)."""
    try:
        os.chdir(path)
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)
        os.chdir(path)
    try:
        os.getcwd()
    except OSError:
        raise StartError(f"working directory {path}: it is outside of the container's root") from None


def _execute(words: list[str], environment: dict[str, str]) -> NoReturn:
    """execve(2) with the container's own PATH: 127 when there is no such file, 126 when it is none to run."""
    name = words[0]
    if "/" in name:
        candidates = [name]
    else:
        places = environment.get("PATH", "").split(":")
        candidates = [f"{place or '.'}/{name}" for place in places]
    refused: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, words, environment)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(candidate) and "/" in name:
                text = f"exec {name}: its interpreter or the target of its link is missing"
                raise StartError(text, NOT_FOUND, errno.ENOENT) from None
        except OSError as error:
            refused = refused or error
    if refused is not None:
        text = f"exec {name}: {os.strerror(refused.errno or 0).lower()}"
        raise StartError(text, NOT_EXECUTABLE, refused.errno or 0)
    where = "" if "/" in name else " in PATH"
    raise StartError(f"exec {name}: no such file{where}", NOT_FOUND, errno.ENOENT)


# ---------------------------------------------------------------- before the root changes


def _read_filter(config: Config) -> bytes:
    """The compiled system call filter; empty for `unconfined`."""
    path = (config.get("annotations") or {}).get("stead.seccomp") or "unconfined"
    if path == "unconfined":
        return b""
    with open(path, "rb", buffering=0) as file:
        return file.read(_MAX_FILTER) or b""


def _join(shared: dict[str, str]) -> None:
    """Other containers' namespaces, by their files; the caller has joined those of pid and network."""
    for kind in ("uts", "ipc"):
        if kind in shared:
            fd = os.open(shared[kind], os.O_RDONLY | os.O_CLOEXEC)
            namespaces.setns(fd, namespaces.FLAGS[kind])
            os.close(fd)


def _set_names(config: Config, spaces: set[str]) -> None:
    if "uts" not in spaces:
        return
    for call, key in (("sethostname", "hostname"), ("setdomainname", "domainname")):
        name = str(config.get(key) or "").encode()
        if name:
            libc.call(call, name, len(name), subject=key)


def _set_sysctls(values: dict[str, str], spaces: set[str]) -> None:
    """Only those that belong to a namespace which the container has for itself: sysctl(8)."""
    for key, value in values.items():
        own = (
            (key.startswith("net.") and "network" in spaces)
            or (key in _NAMESPACED_KERNEL and "ipc" in spaces)
            or (key.startswith("fs.mqueue.") and "ipc" in spaces)
        )
        if not own:
            raise StartError(f"sysctl {key}: it is not the container's own, the whole host would get it")
        with open(f"/proc/sys/{key.replace('.', '/')}", "wb", buffering=0) as file:
            file.write(str(value).encode())


def _report(report_fd: int, stage: Stage, error: BaseException) -> NoReturn:
    code, number, message = FAILED, 0, str(error)
    if isinstance(error, StartError):
        code, number = error.code, error.number
    elif isinstance(error, OSError):
        number = error.errno or 0
        where = f" ({error.filename})" if error.filename else ""
        parts = [stage.name, *(error.strerror or str(error)).split(": ")]
        message = ": ".join(part[:1].lower() + part[1:] for part in parts) + where
    elif not isinstance(error, Exception) or not message:
        message = f"{stage.name}: {type(error).__name__} {error}"
    report = {"stage": stage.name, "errno": number, "message": message, "exit_code": code}
    try:
        os.write(report_fd, json.dumps(report).encode())
    finally:
        os._exit(code)
