"""Effects: from a forked process to a container's program: namespaces, mounts, identity, limits, exec.

OCI runtime-spec config.md, config-linux.md; pid_namespaces(7), pivot_root(2). Runs once in a child that is
already in the container's pid and network namespaces and in its cgroup, with one thread, and ends in execve(2)
or _exit(2). What goes wrong is one JSON message on `report_fd`, with Docker's exit code: 125 ours, 126 not
executable, 127 not found. No message and end of file: the program was exec'ed.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import signal
import socket
import stat

from runtime.linux import capabilities, libc, namespaces, rlimits, seccomp, terminals
from runtime.shim import messages, rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    StrPath = str | os.PathLike[str]

FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEYCTL_JOIN_SESSION_KEYRING = 1
_FIRST_FREE = 10  # descriptors below are the program's, or are being put in place

#: sysctls that belong to a namespace; all others would change the host.
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)


class Refusal(Exception):
    """Why the program was not started, for people."""

    def __init__(self, message: str, exit_code: int = FAILED, number: int = 0) -> None:
        super().__init__(message)
        self.exit_code, self.number = exit_code, number


class _Stage:
    """Which part is at work, for the report."""

    name = "start"


def run_init(
    config: Mapping[str, Any],
    *,
    rootfs: StrPath,
    stdio: tuple[int, int, int],
    console_socket: int | None,
    report_fd: int,
) -> NoReturn:
    """Become the container's first process. Never returns."""
    stage = _Stage()
    try:
        _init(config, os.fspath(rootfs), stdio, console_socket, stage)
    except BaseException as error:
        _report(error, stage.name, report_fd)


def run_exec(
    config: Mapping[str, Any],
    process: Mapping[str, Any],
    *,
    init_pidfd: int,
    stdio: tuple[int, int, int],
    console_socket: int | None,
    report_fd: int,
) -> NoReturn:
    """Become one more process of the running container: `process` is an OCI process, what it leaves out is as
    in the container's own. The caller has joined the pid namespace and the cgroup. Never returns."""
    stage = _Stage()
    try:
        _exec(config, process, init_pidfd, stdio, console_socket, stage)
    except BaseException as error:
        _report(error, stage.name, report_fd)


def _init(
    config: Mapping[str, Any], root: str, stdio: tuple[int, int, int], console: int | None, stage: _Stage
) -> None:
    process, linux = config["process"], config["linux"]
    spaces = {entry["type"] for entry in linux.get("namespaces") or ()}
    terminal = bool(process.get("terminal")) and console is not None
    os.setsid()
    program = _read_filter(config)
    stage.name = "namespaces"
    namespaces.unshare(sum(namespaces.FLAGS[name] for name in spaces & {"mount", "cgroup", "ipc", "uts"}))
    stage.name = "hostname"
    _name_host(config, spaces)
    stage.name = "mounts"
    rootfs.build(config, root)
    stage.name = "sysctls"
    _set_sysctls(linux.get("sysctl") or {}, spaces)
    stage.name = "terminal"
    if terminal:
        assert console is not None
        stdio = _open_terminal(console, process)
        rootfs.bind_console(stdio[0])
    stage.name = "root filesystem"
    _make_working_directory(process)
    rootfs.seal(config)
    _become(process, program, stdio, terminal, stage)


def _exec(
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    init_pidfd: int,
    stdio: tuple[int, int, int],
    console: int | None,
    stage: _Stage,
) -> None:
    process = {**config["process"], "terminal": False, "rlimits": config["process"].get("rlimits"), **given}
    terminal = bool(process.get("terminal")) and console is not None
    os.setsid()
    program = _read_filter(config)
    stage.name = "namespaces"
    # Joined in one step by the pidfd; the pid namespace takes effect on children and was joined before.
    spaces = {entry["type"] for entry in config["linux"].get("namespaces") or ()} - {"pid", "user"}
    namespaces.setns(init_pidfd, sum(namespaces.FLAGS[name] for name in spaces))
    stage.name = "terminal"
    if terminal:
        assert console is not None
        stdio = _open_terminal(console, process)
    _become(process, program, stdio, terminal, stage)


# ---------------------------------------------------------------- identity, limits, exec


def _become(
    process: Mapping[str, Any],
    program: bytes | None,
    stdio: tuple[int, int, int],
    terminal: bool,
    stage: _Stage,
) -> None:
    """The last steps, in the order in which each still may do the next."""
    stage.name = "ulimits"
    rlimits.apply(process.get("rlimits") or ())
    _set_oom_score(process)
    stage.name = "keyring"
    _join_keyring()
    stage.name = "standard streams"
    _take_streams(stdio, terminal)
    stage.name = "user"
    sets = process.get("capabilities") or {}
    user = process.get("user") or {}
    bounding = [name for name in sets.get("bounding") or () if name in capabilities.NUMBERS]
    _enter_directory(str(process.get("cwd") or "/"))
    capabilities.limit_bounding(bounding)
    if process.get("noNewPrivileges"):
        seccomp.no_new_privileges()
    elif program:
        # Without no_new_privs the filter takes CAP_SYS_ADMIN, so it goes in before the capabilities go; it
        # allows the few calls that follow.
        seccomp.install(program)
    _set_user(user, sets)
    if process.get("noNewPrivileges") and program:
        seccomp.install(program)
    stage.name = "exec"
    _run(process)


def _set_user(user: Mapping[str, Any], sets: Mapping[str, Sequence[str]]) -> None:
    uid, gid = int(user.get("uid") or 0), int(user.get("gid") or 0)
    masks = {
        name: capabilities.mask(cap for cap in sets.get(name) or () if cap in capabilities.NUMBERS)
        for name in ("effective", "permitted", "inheritable", "ambient")
    }
    if uid and masks["permitted"]:
        capabilities.keep_over_setuid()
    os.setgroups([int(group) for group in user.get("additionalGids") or ()])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    capabilities.set_all(**masks)
    os.umask(int(user.get("umask", 0o022)))


def _run(process: Mapping[str, Any]) -> None:
    words = [str(word) for word in process.get("args") or ()]
    if not words:
        raise Refusal("cannot start: no program given")
    environment: dict[str, str] = {}
    for entry in process.get("env") or ():
        key, _, value = str(entry).partition("=")
        environment[key] = value
    path = _find(words[0], environment.get("PATH", DEFAULT_PATH))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # what the interpreter ignores
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    libc.close_on_exec(3)
    try:
        os.execve(path, words, environment)
    except OSError as error:
        code = NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE
        cause = os.strerror(error.errno or 0).lower()
        if error.errno == errno.ENOENT:
            cause = "its interpreter (the loader, or the one after #!) is not in the image"
        raise Refusal(f"cannot execute {words[0]}: {cause}", code, error.errno or 0) from None


def _find(word: str, search: str) -> str:
    """execvp(3): a word with a slash is a path; else the first executable file along PATH."""
    candidates = [word] if "/" in word else [f"{part or '.'}/{word}" for part in search.split(":")]
    refused = 0
    for candidate in candidates if word else ():
        try:
            status = os.stat(candidate)
        except OSError as error:
            if error.errno == errno.EACCES:
                refused = errno.EACCES
            continue
        if stat.S_ISDIR(status.st_mode):
            refused = refused or (errno.EISDIR if "/" in word else 0)
        elif os.access(candidate, os.X_OK):
            return candidate
        else:
            refused = errno.EACCES
    if refused:
        raise Refusal(f"cannot execute {word}: {os.strerror(refused).lower()}", NOT_EXECUTABLE, refused)
    where = "no such file" if "/" in word else f"not found in PATH ({search})"
    raise Refusal(f"cannot execute {word or repr(word)}: {where}", NOT_FOUND, errno.ENOENT)


def _set_oom_score(process: Mapping[str, Any]) -> None:
    score = process.get("oomScoreAdj")
    if score is None:
        return
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(str(int(score)).encode())


def _join_keyring() -> None:
    """A session keyring of its own; keyrings(7). A kernel without them, or a full quota, is no reason to fail."""
    try:
        libc.syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, None, 0, 0, 0, subject="session keyring")
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT, errno.EPERM, errno.EOPNOTSUPP):
            raise


def _take_streams(stdio: tuple[int, int, int], terminal: bool) -> None:
    """0, 1, 2 become `stdio`, whatever numbers those have; owners stay as they are."""
    held = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for fd in stdio]
    for number, fd in enumerate(held):
        os.dup2(fd, number, inheritable=True)
        os.close(fd)
    if terminal:
        terminals.control(0)


def _open_terminal(console: int, process: Mapping[str, Any]) -> tuple[int, int, int]:
    """A terminal of the container's own devpts; its master goes over the socket."""
    master, slave = terminals.open_pty("/dev/pts/ptmx")
    size = process.get("consoleSize") or {}
    if size.get("height") and size.get("width"):
        terminals.set_size(master, int(size["height"]), int(size["width"]))
    uid = int((process.get("user") or {}).get("uid") or 0)
    if uid:
        os.fchown(slave, uid, -1)
    with socket.socket(fileno=os.dup(console)) as sender:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))
        sender.sendmsg([b"terminal"], [rights])
    os.close(master)
    return slave, slave, slave


def _make_working_directory(process: Mapping[str, Any]) -> None:
    """Made when missing, as Docker does: owned by the user."""
    path = str(process.get("cwd") or "/")
    if os.path.isdir(path):
        return
    user = process.get("user") or {}
    try:
        os.makedirs(path, 0o755, exist_ok=True)
        os.chown(path, int(user.get("uid") or 0), int(user.get("gid") or 0))
    except OSError as error:
        raise Refusal(
            f"cannot make working directory {path}: {os.strerror(error.errno or 0).lower()}",
            FAILED,
            error.errno or 0,
        ) from None


def _enter_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        cause = os.strerror(error.errno or 0).lower()
        text = f"cannot enter working directory {path}: {cause}"
        raise Refusal(text, FAILED, error.errno or 0) from None


# ---------------------------------------------------------------- the namespaces' own settings


def _name_host(config: Mapping[str, Any], spaces: set[str]) -> None:
    if "uts" not in spaces:
        return
    for key, call in (("hostname", "sethostname"), ("domainname", "setdomainname")):
        if config.get(key):
            name = str(config[key]).encode()
            libc.call(call, name, len(name), subject=str(config[key]))


def _set_sysctls(values: Mapping[str, str], spaces: set[str]) -> None:
    for key, value in values.items():
        dotted = key.replace("/", ".") if "/" in key and "." not in key else key
        if dotted.startswith("net."):
            space = "network"
        elif dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            space = "ipc"
        elif dotted in ("kernel.hostname", "kernel.domainname"):
            space = "uts"
        else:
            raise Refusal(f"cannot set sysctl {key}: it belongs to the whole host, not to a container")
        if space not in spaces:
            raise Refusal(f"cannot set sysctl {key}: the container shares the host's {space} namespace")
        # A slash form keeps dots inside a name (interface eth0.5); sysctl(8).
        file = "/proc/sys/" + (key if "/" in key else key.replace(".", "/"))
        if ".." in file.split("/"):
            raise Refusal(f"cannot set sysctl {key}: no such setting")
        try:
            with open(file, "wb", buffering=0) as stream:
                stream.write(str(value).encode())
        except OSError as error:
            cause = os.strerror(error.errno or 0).lower()
            raise Refusal(f"cannot set sysctl {key}={value}: {cause}", FAILED, error.errno or 0) from None


def _read_filter(config: Mapping[str, Any]) -> bytes | None:
    path = (config.get("annotations") or {}).get("stead.seccomp") or "unconfined"
    if path == "unconfined":
        return None
    with open(path, "rb") as file:
        return file.read()


def _report(error: BaseException, stage: str, report_fd: int) -> NoReturn:
    """Say why, and end. A broad catcher: this process must not run its parent's code twice."""
    code, number, text = FAILED, 0, f"cannot start: {error}"
    if isinstance(error, Refusal):
        code, number, text = error.exit_code, error.number, str(error)
    elif isinstance(error, OSError):
        number = error.errno or 0
        about = f" {error.filename}" if error.filename else ""
        text = f"cannot start ({stage}): {error.strerror}{about}"
    elif not isinstance(error, ValueError):
        text = f"cannot start ({stage}): {type(error).__name__}: {error}"
    try:
        document = {"stage": stage, "errno": number, "message": text, "exit_code": code}
        os.write(report_fd, messages.encode(document))
    finally:
        os._exit(code)
