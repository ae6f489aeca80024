"""Effects: create, start and run.

A container is created by the init of the shims (runtime.shim.launch): it does all but the exec and waits at a
gate, see runtime.oci.gate. Between, its hooks run where the specification has them (runtime.md, lifecycle).
"""

from __future__ import annotations

import errno
import os
import select
import time

from runtime.linux import cgroups, jsontext, pidfd
from runtime.oci import fields, gate, groups, hooks, records
from runtime.oci.failure import OciFailure, explain
from runtime.shim import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.oci.scopes import Name, Scope

    Config = dict[str, Any]

MAX_DOCUMENT = 16 << 20
#: Seconds that a container which could not be created is given to end.
END = 10.0


class Order:
    """What a `create` or `run` asks for. `console`: a connected socket for the terminal, or None."""

    __slots__ = ("bundle", "console", "id", "keyring", "pid_file", "pivots", "preserved", "root", "systemd")

    def __init__(
        self,
        *,
        root: str,
        id: str,
        bundle: str,
        pid_file: str,
        console: int | None,
        pivots: bool,
        keyring: bool,
        preserved: int,
        systemd: bool,
    ) -> None:
        self.root, self.id, self.bundle, self.pid_file = root, id, bundle, pid_file
        self.console, self.pivots, self.keyring = console, pivots, keyring
        self.preserved, self.systemd = preserved, systemd


def read_config(bundle: str) -> Config:
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb") as file:
            document = jsontext.decode(file.read(MAX_DOCUMENT))
    except FileNotFoundError:
        raise OciFailure(f"cannot read bundle: JSON specification file {path} not found") from None
    except (OSError, ValueError) as error:
        raise OciFailure(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict):
        raise OciFailure(f"cannot read {path}: it is no object")
    return document


def wants_terminal(bundle: str) -> bool:
    process = read_config(bundle).get("process")
    return isinstance(process, dict) and bool(process.get("terminal"))


def create(order: Order, warn: Callable[[str], None]) -> tuple[records.Record, launch.Child]:
    """The container waits to be started; its first process is a child of this one. What fails leaves
    nothing behind."""
    config = read_config(order.bundle)
    for warning in fields.check(config):
        warn(warning)
    config = fields.complete(config, order.bundle)
    host = cgroups.detect()
    scope = _scope_of(config, order) if order.systemd else None
    cgroup = scope.path if scope is not None else groups.path_of(config, order.id)
    own = os.getpid()
    record = records.make(
        order.root,
        order.id,
        {
            "pid": 0,
            "start": 0,
            "bundle": order.bundle,
            "created": _now(),
            "owner": _owner(),
            "cgroup": cgroup,
            "own_cgroup": scope is None and not config["linux"].get("cgroupsPath"),
            "scope": scope.unit if scope is not None else "",
            "creator": [own, pidfd.start_time(own)],
            "config": config,
        },
    )
    held: Scope | None = None
    try:
        if scope is not None:
            held = _begin(scope, config, order.id)
        _make_cgroup(host, cgroup, config)
        child = _create(order, record, config, host)
    except BaseException:
        if held is not None:
            held.release()
        _clear(host, record)
        raise
    if held is not None:
        held.release()
    return record, child


def _scope_of(config: Config, order: Order) -> Name:
    from runtime.oci import scopes

    return scopes.name_of(str(config["linux"].get("cgroupsPath") or ""), order.id)


def _begin(scope: Name, config: Config, id: str) -> Scope:
    from runtime.oci import scopes

    return scopes.Scope(scope, id, config["linux"].get("resources") or {})


def _make_cgroup(host: cgroups.Cgroups, cgroup: str, config: Config) -> None:
    resources = config["linux"].get("resources") or {}
    try:
        host.create(cgroup)
        groups.allow_devices(host, cgroup, resources)
        groups.apply(host, cgroup, resources)
    except OSError as error:
        raise OciFailure(f"cannot make cgroup {cgroup}: {explain(error)}") from None


def _create(order: Order, record: records.Record, config: Config, host: cgroups.Cgroups) -> launch.Child:
    program_filter, flags = read_filter(config, order.root)
    environment = _listening(config, order)
    made = gate.Gate(
        record,
        config,
        records.state_for_hooks(record),
        pivots=order.pivots,
        keyring=order.keyring,
        preserved=order.preserved,
        program_filter=program_filter,
        filter_flags=flags,
    )
    if environment is not config["process"].get("env"):
        config = {**config, "process": {**config["process"], "env": environment}}
    launcher = launch.Launcher(config, order.bundle, record.cgroup, host)
    problem = launcher.check()
    if problem is not None:
        raise OciFailure(problem.message)
    try:
        child = launcher.start((0, 1, 2), order.console, made)
    except OSError as error:
        raise OciFailure(f"cannot start: {explain(error)}") from None
    made.forked()
    record.save(pid=child.pid, start=child.start)
    _expect(made, gate.MOUNTED, child, record, host)
    state = {**records.state_for_hooks(record), "status": "creating"}
    wanted = config.get("hooks") or {}
    for kind in ("prestart", "createRuntime"):
        hooks.run(kind, wanted.get(kind) or (), state)
    made.let_go(child.pid)
    _expect(made, gate.READY, child, record, host)
    if order.pid_file:
        write_pid(order.pid_file, child.pid)
    return child


def _listening(config: Config, order: Order) -> list[str]:
    """systemd's sockets go through, as runc has it: sd_listen_fds(3)."""
    said = os.environ.get("LISTEN_FDS") or "0"
    if not said.isdecimal():
        raise OciFailure(f"cannot hand sockets on: LISTEN_FDS={said} is no number")
    number = int(said)
    environment: list[str] = list(config["process"].get("env") or ())
    if not number:
        return environment
    order.preserved += number
    return [*environment, f"LISTEN_FDS={number}", "LISTEN_PID=1"]


def _expect(
    made: gate.Gate, what: bytes, child: launch.Child, record: records.Record, host: cgroups.Cgroups
) -> None:
    """Until the first process says so; OciFailure when it ends before, with its own words."""
    try:
        said = made.wait(what)
    except OSError:
        said = False
    if not said:
        pidfd.wait(child.pidfd, END)
        failure = launch.read_report(child)
        if failure:
            raise OciFailure(explain_failure(failure, record.config["process"]))
        starved = ": out of memory, see linux.resources.memory" if host.oom_kills(record.cgroup) else ""
        raise OciFailure(f"container's init ended at once{starved}")


def explain_failure(failure: launch.Failure, process: Config) -> str:
    """In the words by which engines know exit codes 126 and 127."""
    name = str(process["args"][0])
    if failure.exit_code == launch.NOT_FOUND:
        if "/" not in name:
            return f'unable to start container process: exec: "{name}": executable file not found in $PATH'
        return f'unable to start container process: exec: "{name}": stat {name}: no such file or directory'
    if failure.exit_code == launch.NOT_EXECUTABLE:
        cause = failure.message.rpartition(": ")[2]
        return f'unable to start container process: exec: "{name}": {cause}'
    return f"unable to start container process: {failure.message}"


def _clear(host: cgroups.Cgroups, record: records.Record) -> None:
    """Of a container that was not created: what there is of it, however far it came."""
    if record.pid:
        pidfd.kill(record.pid, int(record.document["start"]))
    try:
        own = bool(record.document["own_cgroup"])
        groups.remove(host, record.cgroup, parents=own, kill=record.shares_pids)
    finally:
        record.remove()


# ---------------------------------------------------------------- start


def start(record: records.Record, host: cgroups.Cgroups, warn: Callable[[str], None]) -> None:
    """Let the first process go; returns when the program runs. OciFailure says why it does not."""
    status = record.status(host)
    if status == "running":
        raise OciFailure("cannot start a container that has already started")
    if status != "created":
        raise OciFailure(f"cannot start a container in the {status} state")
    told = os.open(f"{record.directory}/{records.REPORT}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        go = os.open(f"{record.directory}/{records.START}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(go, b"\0")
        os.close(go)
        said = _read_all(told)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EPIPE):
            raise
        raise OciFailure("cannot start a container in the stopped state") from None
    finally:
        os.close(told)
    for name in (records.START, records.REPORT):
        os.unlink(f"{record.directory}/{name}")
    if said:
        report = jsontext.decode(said)
        failure = launch.Failure(report["stage"], report["message"], int(report["exit_code"]))
        raise OciFailure(explain_failure(failure, record.config["process"]))
    wanted = (record.config.get("hooks") or {}).get("poststart") or ()
    hooks.run_all("poststart", wanted, {**records.state_for_hooks(record), "status": "running"}, warn)


def _read_all(fd: int) -> bytes:
    """Until every writer has closed it."""
    poll, found = select.poll(), b""
    poll.register(fd, select.POLLIN)
    while True:
        poll.poll()
        data = os.read(fd, 65536)
        if not data:
            return found
        found += data


# ---------------------------------------------------------------- what create and exec share


def read_filter(config: Config, root: str) -> tuple[bytes, int]:
    """The compiled `linux.seccomp` and its flags. Compiling takes longer than all else: kept by content."""
    document = config["linux"].get("seccomp")
    if not document:
        return b"", 0
    from runtime.oci import filters

    return filters.compiled(document, f"{root}/.seccomp")


def write_pid(path: str, pid: int) -> None:
    """Whoever waits for the file finds it whole."""
    directory, _, name = path.rpartition("/")
    temporary = f"{directory or '.'}/.{name}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)


def _owner() -> str:
    if os.geteuid() == 0:
        return "root"
    return str(os.geteuid())


def _now() -> str:
    moment = time.time_ns()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 1_000_000_000))
    return f"{whole}.{moment % 1_000_000_000:09d}Z"
