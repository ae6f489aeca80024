"""Effects: a freshly forked process becomes a container's program, or a program inside a running container.

Nothing here returns: it ends in execve(2) or, after one JSON object on the report pipe, in _exit(2) with 125,
126 or 127. The pipe is close-on-exec, so that its end without bytes says that the program runs. The order
follows from what each step takes away: what belongs to the shim goes first, files of the host are read before
the root changes, mounts are made before paths are masked, identity goes before the system call filter, which
is last. OCI runtime-spec, config-linux.md; pivot_root(2).
"""

from __future__ import annotations

import errno
import os
import sys

from runtime.linux import jsontext, libc, namespaces, openat2, signals
from runtime.shim import ahead, documents, identity, root, sysctls, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, Protocol

    Config = dict[str, Any]

    class Gates(Protocol):
        """Who waits with a container between its creation and its start, and what is done meanwhile."""

        #: whether the root is changed by pivot_root(2)
        pivots: bool
        #: the compiled filter
        program_filter: bytes
        #: flags of seccomp(2)
        filter_flags: int
        #: whether the container gets a session keyring of its own
        keyring: bool
        #: descriptors that the program gets, from 3 on
        preserved: int

        def kept(self) -> list[int]:
            """Descriptors that the gates need until the program runs."""

        def mounted(self, root: int, stage: Stage) -> None:
            """All is mounted in the open directory `root`, which is not the root yet."""

        def ready(self, program: str, stage: Stage, report: int) -> None:
            """The rights and the exec of `program` are left; what fails now is written to `report`."""

        def assumed(self, stage: Stage) -> None:
            """The process has no rights but those of the program; only the exec is left to do."""


FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36


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
    rootfs: str,
    stdio: tuple[int, int, int],
    console_socket: int | None,
    report_fd: int,
    prepared: root.Prepared | None = None,
    gates: Gates | None = None,
    hold: int | None = None,
) -> NoReturn:
    """The container's first process: namespaces that it does not have yet, its root, then its program.

    The caller has put it into its cgroup and its pid and network namespaces; with `prepared` into all. From
    `hold` a byte comes when the program may run; its end without one says that it may not.
    """
    stage = Stage()
    try:
        opened = [] if prepared is None else [prepared.tree, *prepared.binds.values()]
        kept = gates.kept() if gates is not None else ()
        _seclude(*stdio, console_socket, report_fd, hold, *opened, *kept)
        _enter(config, rootfs, stdio, console_socket, report_fd, prepared, gates, hold, stage)
    except BaseException as error:
        report(report_fd, stage, error)


def run_early(
    known: Config, bundle: str, *, stdio: tuple[int, int, int], report_fd: int, hold: int
) -> NoReturn:
    """As run_init, by a bundle of our own that is there when a byte comes from `hold`, and of which `known`
    is known before; the next byte says that the program may run."""
    stage = Stage()
    try:
        _seclude(*stdio, report_fd, hold)
        stage.name = "namespaces"
        made = ahead.Ahead(known)
        stage.name = "begin"
        _wait(hold)
        config = documents.read(bundle, "config.json")
        rootfs = os.path.join(bundle, str(config["root"]["path"]))
        _enter(config, rootfs, stdio, None, report_fd, None, None, hold, stage, made)
    except BaseException as error:
        report(report_fd, stage, error)


def _enter(
    config: Config,
    rootfs: str,
    stdio: tuple[int, int, int],
    console_socket: int | None,
    report_fd: int,
    prepared: root.Prepared | None,
    gates: Gates | None,
    hold: int | None,
    stage: Stage,
    made: ahead.Ahead | None = None,
) -> NoReturn:
    """All but the very first steps of run_init."""
    if prepared is not None and gates is None:
        program_filter = prepared.program_filter
    else:
        program_filter = identity.read_filter(config) if gates is None else gates.program_filter
    labels = identity.open_labels(config["process"])
    spaces = {entry["type"]: entry.get("path") or None for entry in config["linux"]["namespaces"]}
    if prepared is None:
        tty.give(stdio, identity.outside(config, config["process"]), report_fd)
        stage.name = "namespaces"
        _join(spaces)
        own = {kind for kind in ("mount", *ahead.KINDS) if spaces.get(kind, "host") is None}
        own.difference_update(made.own if made is not None else ())
        namespaces.unshare(sum(namespaces.FLAGS[kind] for kind in own))
    if "network" in spaces and not spaces["network"]:
        namespaces.raise_loopback()
    stage.name = "hostname"
    if gates is not None or not spaces.get("uts"):  # our own bundles name the host, not its peer
        sysctls.set_names(config, spaces)
    stage.name = "root filesystem"
    joined = prepared is not None and prepared.userns and bool(spaces.get("network"))

    def settle(directory: int) -> None:
        if gates is not None:
            gates.mounted(directory, stage)
        stage.name = "sysctls"
        sysctls.apply(config, spaces, joined=joined)

    slave = root.build(config, rootfs, console_socket, stage, settle, prepared, gates, made)
    if made is not None:
        made.close()
    stage.name = "working directory"
    _make_directory(str(config["process"].get("cwd") or "/"))
    _become(config, config["process"], stdio, slave, program_filter, stage, labels, gates, report_fd, hold)


def run_exec(
    config: Config,
    process: Config,
    *,
    init_pidfd: int,
    stdio: tuple[int, int, int],
    console_socket: int | None,
    report_fd: int,
    reaper: bool = False,
    gates: Gates | None = None,
) -> NoReturn:
    """A further process of a running container: all its namespaces, the same limits and the same filter.

    The caller has put it into the cgroup and, by its fork, into the pid namespace. `reaper`: whatever it
    starts stays below it for as long as it lives, also what would go to PID 1 otherwise.
    """
    stage = Stage()
    try:
        _seclude(*stdio, console_socket, report_fd, init_pidfd, *(gates.kept() if gates is not None else ()))
        labels = identity.open_labels(process)
        tty.give(stdio, identity.outside(config, process), report_fd)
        if reaper:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, subject="PR_SET_CHILD_SUBREAPER")
        program_filter = identity.read_filter(config) if gates is None else gates.program_filter
        stage.name = "namespaces"
        kinds = [entry["type"] for entry in config["linux"]["namespaces"] if entry["type"] != "pid"]
        namespaces.setns(init_pidfd, sum(namespaces.FLAGS[kind] for kind in kinds))
        if "user" in kinds:
            identity.become_root()
        slave = None
        if process.get("terminal") and console_socket is not None:
            stage.name = "terminal"
            top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            slave = tty.open_terminal(top, console_socket)
        _become(config, process, stdio, slave, program_filter, stage, labels, gates, report_fd)
    except BaseException as error:
        report(report_fd, stage, error)


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


# ---------------------------------------------------------------- the last steps, the same for both


def _become(
    config: Config,
    process: Config,
    stdio: tuple[int, int, int],
    slave: int | None,
    program_filter: bytes,
    stage: Stage,
    labels: identity.Labels,
    gates: Gates | None,
    report_fd: int,
    hold: int | None = None,
) -> NoReturn:
    stage.name = "terminal" if slave is not None else "standard streams"
    if slave is not None:
        tty.take(slave, process)
        stdio = (slave, slave, slave)
    copies = [os.dup(fd) for fd in stdio]  # above 2, and close-on-exec
    for number, fd in enumerate(copies):
        os.dup2(fd, number, inheritable=True)
    stage.name = "limits"
    identity.set_rlimits(process.get("rlimits") or ())
    stage.name = "working directory"
    _change_directory(str(process.get("cwd") or "/"))
    words = [str(word) for word in process["args"]]
    environment = dict(entry.partition("=")[::2] for entry in process.get("env") or ())
    if gates is not None:
        if not environment.get("HOME"):  # as runc has it; our own bundles say it
            environment["HOME"] = identity.home_of(int(process["user"].get("uid") or 0))
        stage.name = "exec"
        gates.ready(_find(words[0], environment), stage, report_fd)
    if hold is not None:
        _wait(hold)
    stage.name = "descriptors"
    preserved = gates.preserved if gates is not None else 0
    libc.close_on_exec(3 + preserved)
    for number in range(3, 3 + preserved):
        os.set_inheritable(number, True)
    signals.default_all()  # Python ignores SIGPIPE and SIGXFSZ
    stage.name = "identity"
    keyring = gates is None or gates.keyring
    flags = gates.filter_flags if gates is not None else identity.filter_flags(config)
    identity.assume(process, program_filter, labels, keyring=keyring, flags=flags)
    if gates is not None:
        gates.assumed(stage)
    stage.name = "exec"
    _execute(words, environment)


def _wait(hold: int) -> None:
    if not os.read(hold, 1):
        raise StartError("cannot start: who asked for it is gone")


def _make_directory(path: str) -> None:
    """Docker makes a missing working directory of the first process, as root; that of a further one must be
    there. None is made behind a magic link of /proc, which leads to the roots of others where the container
    shares their processes."""
    try:
        os.stat(path)
    except FileNotFoundError:
        top = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(openat2.make_directory(top, path))
        os.close(top)


def _change_directory(path: str) -> None:
    """One that the root does not reach is refused: links of /proc lead anywhere (getcwd(3) says ENOENT)."""
    os.chdir(path)
    try:
        os.getcwd()
    except OSError:
        raise StartError(f"working directory {path}: it is outside of the container's root") from None


def _candidates(name: str, environment: dict[str, str]) -> list[str]:
    if "/" in name or not name:
        return [name]
    return [f"{place or '.'}/{name}" for place in environment.get("PATH", "").split(":")]


def _find(name: str, environment: dict[str, str]) -> str:
    """The file that will be executed, looked for as execvp(3) does, without the rights of its user."""
    refused = False
    for candidate in _candidates(name, environment):
        if os.path.isfile(candidate):
            if os.stat(candidate).st_mode & 0o111:
                return candidate
            refused = True
        refused = refused or os.path.isdir(candidate)
    if refused:
        raise StartError(f"exec {name}: permission denied", NOT_EXECUTABLE, errno.EACCES)
    where = "" if "/" in name else " in PATH"
    raise StartError(f"exec {name}: no such file{where}", NOT_FOUND, errno.ENOENT)


def _execute(words: list[str], environment: dict[str, str]) -> NoReturn:
    """execve(2) with the container's own PATH: 127 when there is no such file, 126 when it is none to run."""
    name = words[0]
    refused: OSError | None = None
    for candidate in _candidates(name, environment):
        try:
            os.execve(candidate, words, environment)
        except (FileNotFoundError, NotADirectoryError):
            if "/" in name and os.path.lexists(candidate):
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


def _join(shared: dict[str, str | None]) -> None:
    """Other containers' namespaces, by their files; the caller has joined those of pid and network."""
    for kind in ("uts", "ipc"):
        path = shared.get(kind)
        if path:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            namespaces.setns(fd, namespaces.FLAGS[kind])
            os.close(fd)


def report(report_fd: int, stage: Stage, error: BaseException) -> NoReturn:
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
        os.write(report_fd, jsontext.encode(report))
    finally:
        os._exit(code)
