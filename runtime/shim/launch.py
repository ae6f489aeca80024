"""Effects: forking a container's first process, and processes that join it. The forked child never returns
here.

The child is in the container's network and pid namespace from its first instruction on and joins the cgroup
before anything else, so that limits hold before the program exists. setns(2), clone3(2), pid_namespaces(7):
a pid namespace is entered by children only, so the shim itself never leaves its own.
"""

from __future__ import annotations

import errno
import os

from runtime.linux import apparmor, fork, jsontext, mounts, namespaces, pidfd, signals
from runtime.linux import cgroups as cgroup_files
from runtime.shim import init, spaces, supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from runtime.shim.loop import Loop
    from runtime.shim.root import Prepared

    Config = dict[str, Any]

#: Exit codes of a start that failed, as Docker has them.
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
MAX_REPORT = 65536
#: Seconds until a dead child that is traced is asked for again.
AGAIN = 0.2


class Child:
    """A forked process of ours. `report` is readable when it was exec'ed (end of file) or failed (JSON)."""

    __slots__ = ("pid", "pidfd", "report", "start")

    def __init__(self, pid: int, report: int, held: int = -1) -> None:
        """`held` is a pidfd of it, if there is one already."""
        self.pid, self.report = pid, report
        # it cannot be reaped by anyone else: the pid is still its own
        self.pidfd = pidfd.open_pidfd(pid) if held < 0 else held
        self.start = pidfd.start_time(pid)

    def signal(self, number: int) -> None:
        """No error when it has ended."""
        try:
            pidfd.send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        for fd in (self.pidfd, self.report):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.report = -1


class Failure:
    """Why a program was not started: `stage` of the start, an exit code of 125 to 127, a text for people, and
    the errno of what failed (0: it has none)."""

    __slots__ = ("exit_code", "message", "number", "stage")

    def __init__(self, stage: str, message: str, exit_code: int = FAILED, number: int = 0) -> None:
        self.stage, self.message, self.exit_code, self.number = stage, message, exit_code, number

    @property
    def lost_profile(self) -> bool:
        """The AppArmor profile was taken away between the look at it and the exec: the next try loads it."""
        return self.stage == "identity" and self.number == errno.ENOENT


class Launcher:
    """Knows the shim's own namespaces and the container's bundle; forks."""

    def __init__(self, config: Config, bundle: str, cgroup: str, host: cgroup_files.Cgroups) -> None:
        self._bundle, self._cgroup, self._host = bundle, cgroup, host
        wanted = {entry["type"]: entry.get("path") for entry in config["linux"]["namespaces"]}
        self.pidns: str | None = wanted.get("pid")  # another container's
        self.own_pids = "pid" in wanted and not self.pidns
        self.private_pids = "pid" in wanted
        self.netns: str | None = wanted.get("network")
        self._flags = namespaces.CLONE_NEWPID if self.own_pids else 0
        if "network" in wanted and not self.netns:
            self._flags |= namespaces.CLONE_NEWNET
        self._net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._pid = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.left: list[int] = []  # pidfds of children that were killed and could not be waited for
        self.own_net = -1  # the container's network namespace, should its name go while it runs
        self.read(config)

    def read(self, config: Config) -> None:
        """Of a bundle that is there now, with the namespaces that were known from the beginning."""
        self.config = config
        self.rootfs = os.path.join(self._bundle, str(config["root"]["path"]))  # an absolute one replaces it
        self._plain = spaces.is_plain(config)
        self.terminal = bool(config["process"].get("terminal"))
        self.oom_score = int(config["process"].get("oomScoreAdj") or 0)
        self.mounted = mounts.is_mounted(self.rootfs)
        self._profile = (config.get("annotations") or {}).get("stead.apparmor")

    def take_up(self, mounted: bool, own_net: int) -> None:
        """Know what the launcher knew that started the program."""
        self.mounted, self.own_net = mounted, own_net

    def check(self) -> Failure | None:
        """What a start needs and has lost. The agent mends it; a later start finds it again."""
        if not os.path.isdir(self.rootfs):
            return Failure("rootfs", f"cannot start: root filesystem {self.rootfs} is gone")
        mounted = mounts.is_mounted(self.rootfs)
        if self.mounted and not mounted:
            return Failure("rootfs", f"cannot start: root filesystem {self.rootfs} is not mounted any more")
        self.mounted = mounted
        if not self._host.exists(self._cgroup):
            return Failure("cgroup", f"cannot start: cgroup {self._cgroup} is gone")
        return None

    def start(
        self,
        stdio: tuple[int, int, int],
        console: int | None,
        gates: init.Gates | None = None,
        hold: int | None = None,
    ) -> Child:
        """Fork the container's first process; `hold` as init has it. OSError when the network namespace is
        gone or no process is to be had."""
        self._renew_profile(gates)
        if self.netns:
            self._enter_net()
        try:

            def program(report: int, prepared: Prepared | None = None) -> NoReturn:
                init.run_init(
                    self.config,
                    rootfs=self.rootfs,
                    stdio=stdio,
                    console_socket=console,
                    report_fd=report,
                    prepared=prepared,
                    gates=gates,
                    hold=hold,
                )

            if not self._plain:
                return self._fork_apart(program, stdio, strict=gates is None)
            if self.pidns:
                _enter_pids(self.pidns)
            return self._fork(program, self._flags)
        except OSError as error:
            raise (_joins_nothing(error, self.pidns) if self.pidns else error) from None
        finally:
            self._return()

    def _fork_apart(
        self,
        program: Callable[[int, Prepared | None], NoReturn],
        stdio: tuple[int, int, int],
        *,
        strict: bool,
    ) -> Child:
        """By a process in between, which enters the namespaces: see runtime.shim.spaces."""
        reader, writer = os.pipe2(os.O_CLOEXEC)

        def between(report: int) -> NoReturn:
            stage = init.Stage()
            stage.name = "namespaces"
            try:
                os.close(reader)
                spaces.run(
                    self.config,
                    rootfs=self.rootfs,
                    stdio=stdio,
                    report_fd=report,
                    announce=writer,
                    strict=strict,
                    program=lambda prepared: program(report, prepared),
                )
            except BaseException as error:
                init.report(report, stage, error)
            os._exit(0)

        try:
            middle = self._fork(between)
        finally:
            os.close(writer)
        try:
            told = os.read(reader, 32)
        finally:
            os.close(reader)
        if not told:
            return middle  # its report says why, and its end follows
        os.waitpid(middle.pid, 0)
        child = Child(int(told), os.dup(middle.report))
        middle.close()
        return child

    def start_early(self, program: Callable[[int], NoReturn]) -> Child:
        """Fork the container's first process for `program`, which gets the writing end of its report, when
        not more than its namespaces is known. OSError as `start` has it."""
        if self.netns:
            self._enter_net()
        try:
            return self._fork(program, self._flags)
        finally:
            self._return()

    def close(self) -> None:
        for fd in (self._net, self._pid, self.own_net):
            if fd >= 0:
                os.close(fd)

    def join(
        self,
        process: Config,
        init_pidfd: int,
        stdio: tuple[int, int, int],
        console: int | None,
        *,
        reaper: bool = False,
        gates: init.Gates | None = None,
    ) -> Child:
        """Fork a process that joins the running container; a `reaper` keeps all that it starts below it.
        OSError when the container has ended."""
        self._renew_profile(gates)
        try:
            if self.private_pids:
                namespaces.setns(init_pidfd, namespaces.CLONE_NEWPID)

            def program(report: int) -> NoReturn:
                init.run_exec(
                    self.config,
                    process,
                    init_pidfd=init_pidfd,
                    stdio=stdio,
                    console_socket=console,
                    report_fd=report,
                    reaper=reaper,
                    gates=gates,
                )

            return self._fork(program)
        finally:
            self._return()

    def _renew_profile(self, gates: init.Gates | None) -> None:
        """Ours, for one of our own bundles that is to have it."""
        if self._profile and gates is None:
            apparmor.renew(self._profile)

    def aside(self, program: Callable[[], int]) -> Child:
        """Fork a process that is not the container's: in the shim's own namespaces and cgroup."""

        def run(report: int) -> NoReturn:
            os.close(report)
            os._exit(program())

        return self._fork(run, joins=False)

    def pids(self) -> list[int]:
        """Every process of the container, by its number on the host."""
        return self._host.pids(self._cgroup)

    def leave(self, loop: Loop, child: Child) -> None:
        """It was killed, and is to be waited for later: a pid namespace does not end before."""
        self.left.append(os.dup(child.pidfd))
        if len(self.left) == 1:
            loop.after(AGAIN, lambda: self._reap_left(loop))

    def _reap_left(self, loop: Loop) -> None:
        for fd in list(self.left):
            try:
                if pidfd.reap(fd) is None:
                    continue
            except ChildProcessError:
                pass
            self.left.remove(fd)
            os.close(fd)
        if self.left:
            loop.after(AGAIN, lambda: self._reap_left(loop))

    def in_network(self, call: Callable[[], Any]) -> Any:
        """Run a short call, such as socket(), in the container's network namespace."""
        if not self.netns:
            return call()
        self._enter_net()
        try:
            return call()
        finally:
            namespaces.setns(self._net, namespaces.CLONE_NEWNET)

    def _enter_net(self) -> None:
        assert self.netns
        try:
            fd = os.open(self.netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._enter_held(error)
            return
        try:
            namespaces.setns(fd, namespaces.CLONE_NEWNET)
        except OSError as error:
            os.close(fd)
            self._enter_held(error)
            return
        if self.own_net >= 0:
            os.close(self.own_net)
        self.own_net = fd

    def _enter_held(self, error: OSError) -> None:
        """Drift: the agent binds the name anew; until then probes and restarts go on with the namespace."""
        if self.own_net < 0:
            text = f"network namespace is gone: {error.strerror}"
            raise OSError(error.errno, text, self.netns) from None
        namespaces.setns(self.own_net, namespaces.CLONE_NEWNET)

    def _return(self) -> None:
        if self.private_pids:
            namespaces.setns(self._pid, namespaces.CLONE_NEWPID)
        if self.netns:
            namespaces.setns(self._net, namespaces.CLONE_NEWNET)

    def _fork(self, program: Callable[[int], NoReturn], flags: int = 0, *, joins: bool = True) -> Child:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            pid, born = self._into_cgroup(flags) if joins else (os.fork(), True)
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if pid == 0:
            self._child(program, writer, joins, born)
        os.close(writer)
        os.set_blocking(reader, False)
        return Child(pid, reader)

    def _into_cgroup(self, flags: int) -> tuple[int, bool]:
        """Fork into the container's cgroup. Returns the pid, and whether the child begins in the v2 one."""
        directory = self._host.open_v2(self._cgroup)
        try:
            return fork.fork(flags, directory), True
        except OSError as error:
            # EAGAIN: pids.max is reached. It bars births and not entries: probes and exec still come in.
            if error.errno != errno.EAGAIN and not fork.unsupported(error):
                raise
        finally:
            if directory >= 0:
                os.close(directory)
        if flags:
            namespaces.unshare(flags)
        return os.fork(), False

    def _child(self, program: Callable[[int], NoReturn], report: int, joins: bool, born: bool) -> NoReturn:
        try:
            if joins:
                self._host.enter(self._cgroup, born=born)
            signals.wake(-1)
            signals.default(signals.SIGPIPE, signals.SIGHUP, signals.SIGCHLD, signals.SIGTERM)
            os.umask(0o022)
            oom_score(self.oom_score)
            program(report)
        except BaseException as error:  # nothing of the shim may run twice
            text = f"cannot start: {error}"
            os.write(report, jsontext.encode({"stage": "fork", "message": text, "exit_code": FAILED}))
        finally:
            os._exit(FAILED)


def _enter_pids(path: str) -> None:
    """The next child is in that pid namespace. OSError ENOENT when the container that it belongs to ended."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(fd, namespaces.CLONE_NEWPID)
    finally:
        os.close(fd)


def _joins_nothing(error: OSError, path: str) -> OSError:
    """pid_namespaces(7): fork(2) fails with ENOMEM where the namespace's first process has ended."""
    return OSError(error.errno, supervise.OWNER_ENDED, path) if error.errno == errno.ENOMEM else error


def oom_score(score: int) -> None:
    """Going below what it began with takes CAP_SYS_RESOURCE: then it is as low as it may be, 0 or what the
    shim has. proc_pid_oom_score_adj(5)."""
    for value in dict.fromkeys((score, 0)):
        try:
            fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(value).encode())
            finally:
                os.close(fd)
            return
        except OSError:
            pass


def read_report(child: Child) -> Failure | None:
    """What the child said before its exec; None: it was exec'ed. To be called when `report` is readable."""
    data = os.read(child.report, MAX_REPORT)
    if not data:
        return None
    try:
        report = jsontext.decode(data)
    except ValueError:
        return Failure("unknown", f"cannot start: {data.decode(errors='replace')}")
    return Failure(
        str(report.get("stage") or "unknown"),
        str(report.get("message") or "cannot start"),
        int(report.get("exit_code") or FAILED),
        int(report.get("errno") or 0),
    )


def exit_code(child: Child) -> int | None:
    """Reap it: 0 to 255, 128 + signal for one that was killed; None while it runs."""
    return pidfd.reap(child.pidfd)


def ended(loop: Loop, child: Child, call: Callable[[], object]) -> int | None:
    """The exit code of a watched child whose pidfd is readable. None: it is dead, and its tracer's until that
    waits or ends (ptrace(2)); it is watched no more, and `call` comes again after a while."""
    code = exit_code(child)
    if code is None:
        loop.forget(child.pidfd)
        loop.after(AGAIN, call)
    return code
