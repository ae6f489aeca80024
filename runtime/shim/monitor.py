"""Effects: the shim. Parent of one container: starts it, keeps its output, probes it, starts it anew, and
tells.

Decides nothing by itself: runtime.shim.supervise says what follows an end or a probe. All truth about the
container is in its state record (live_dir/state.json), rewritten at each change, and at the very end in
bundle_dir/exit.json; whoever reads those needs no answer from here. The shim ends when the container is to be
left alone. SIGTERM ends container and shim without an exit record: the machine goes down, and the container
is still wanted.
"""

from __future__ import annotations

import _socket  # without the enums of `socket`, which cost each shim 50 KiB
import os
import signal
import time

from runtime.linux import cgroups as cgroup_files
from runtime.linux import pidfd, signals
from runtime.shim import chronicle, early, keeper, launch, messages, supervise
from runtime.shim.control import Control
from runtime.shim.documents import Bundle, write_at
from runtime.shim.health import Health
from runtime.shim.logs import LogWriter
from runtime.shim.loop import Loop, Timer
from runtime.shim.outputs import hold
from runtime.shim.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]

STATE, EXIT, RESTARTS = "state.json", "exit.json", "restarts.json"
PAUSED = "paused"  # the mark of runtime.frozen
#: Seconds that a whole cgroup is given to die of SIGKILL.
KILL_TIMEOUT = 5.0
#: shim.log is emptied at this size (bytes).
MAX_NOTES = 65536

# Why a run is being ended.
NOTHING, STOP, SHUTDOWN, UNHEALTHY, UNHEALTHY_STOP = "", "stop", "shutdown", "unhealthy", "unhealthy-stop"


class Monitor:
    """One shim. `pid` is what it is known by: its own, or its keeper's. `report` is called once: with None
    when the program is exec'ed, else with the Failure; `started` after the former. The first program waits
    at `hold` (runtime.shim.init), which is closed here; or it is there already, as `first`. `taken` and its
    document `run` are of a run that goes on.
    """

    def __init__(
        self,
        bundle: Bundle,
        host: cgroup_files.Cgroups,
        report: Callable[[launch.Failure | None, int], None] | None,
        *,
        pid: int,
        started: Callable[[], None] | None = None,
        hold: int | None = None,
        first: early.Early | None = None,
        taken: keeper.Taken | None = None,
        run: Document | None = None,
    ) -> None:
        self.bundle, self._live, self.host = bundle.path, bundle.live, host
        self._report, self._started, self._hold, self._first = report, started, hold, first
        self.live_fd = os.open(bundle.live, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.loop = Loop()
        self.document = self._given = bundle.supervise
        self.phase = supervise.CREATED
        self.health = Health(self, bundle.live)
        self._read_policies()
        self.cgroup = str(self.document["cgroup"])
        if first is not None:
            self.launcher = first.launcher
            self.launcher.read(bundle.config)
        else:
            self.launcher = launch.Launcher(bundle.config, bundle.path, self.cgroup, host)
        self.log = (taken and taken.log) or self._open_log()
        if taken is None:
            self.log.run_ended()  # one whose shim was killed did not say so
        self.child: launch.Child | None = None
        self.streams: Streams | None = None
        self._memory = supervise.RestartMemory(
            int(self.document.get("streak") or 0), int(self.document.get("attempts") or 0)
        )
        self._well_timer: Timer | None = None  # end of a streak
        self._ending = NOTHING
        self._failure: launch.Failure | None = None
        self._execed_at = 0.0  # monotonic; 0: this run was not exec'ed
        self._oom_before = 0
        self._timer: Timer | None = None  # end of backoff, or of the stop's grace period
        self._record: Document = messages.state_document(
            messages.State(
                id=str(self.document["id"]),
                name=str(self.document["name"]),
                shim_pid=pid,
                shim_start=pidfd.start_time(pid),
                restarts=int(self.document.get("restarts") or 0),
                restart_reasons=self.document.get("restart_reasons") or {},
                bundle=bundle.path,
                cgroup=self.cgroup,
                streak=self._memory.streak,
                attempts=self._memory.attempts,
            )
        )
        kind = _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        self._events = _socket.socket(_socket.AF_UNIX, kind)
        self.control: Control | None = None  # with the first start
        if taken is not None and run is not None:
            self._take_up(taken, run)

    def _open_log(self) -> LogWriter:
        asked = self.document.get("log")
        if not asked:
            return keeper.open_log(keeper.log_head(self.bundle, self.document))
        from runtime.shim import loggers  # few containers have another one than our files

        limits = int(self.document["log_max_size"]), int(self.document["log_max_files"])
        return loggers.open_log(asked, f"{self.bundle}/log", limits, self.loop, self._log_dropped)

    def _log_dropped(self) -> None:
        self._save(announce=False, log_dropped=self.log.dropped)

    def _take_up(self, taken: keeper.Taken, given: Document) -> None:
        """Go on with a run where the starter was when it made `handover`."""
        self._record = given["record"]
        self.phase = supervise.advance(supervise.advance(self.phase, "start"), "execed")
        self._execed_at, self._oom_before = given["execed_at"], given["oom_before"]
        self.control = Control(self, taken.listener)
        self.launcher.take_up(given["mounted"], taken.own_net)
        self.child = launch.Child(self._record["pid"], -1, taken.pidfd)
        self.streams = Streams(self.loop, self.log, taken.outputs)
        self.streams.started()
        self.loop.watch(self.child.pidfd, self._exited)

    def handover(self, lock: int) -> tuple[bytes, bytes, list[int]] | None:
        """For a keeper: what opens the log, all else, and descriptors; if an ordinary run is all there is."""
        child, outputs = self.child, self.streams.outputs() if self.streams else []
        if (
            child is None
            or self.phase != supervise.RUNNING
            or self.control is None
            or self.control.is_called()
            or self.document is not self._given
            or self.log.dropped
            or self._memory.streak
            or self.document.get("log")
            or len(outputs) != 2
        ):
            return None
        document = {
            "record": self._record,
            "execed_at": self._execed_at,
            "oom_before": self._oom_before,
            "mounted": self.launcher.mounted,
            "supervise": self.document,
            "config": self.launcher.config,
        }
        head = keeper.log_head(self.bundle, self.document)
        fds = [child.pidfd, self.control.fileno(), lock, *outputs]
        if self.launcher.own_net >= 0:
            fds.append(self.launcher.own_net)
        return head, messages.encode(document), fds

    def _read_policies(self) -> None:
        self.restart = supervise.restart_policy(self.document.get("restart") or {})
        self.health.read(self.document)

    # -- one run

    def start(self) -> None:
        """Begin a run. What goes wrong here is the end of the run, like what goes wrong later.

        The fork comes first: what can wait is done while init works.
        """
        self._timer = None
        self.phase = supervise.advance(self.phase, "start")
        self._execed_at, self._ending = 0.0, NOTHING
        self._failure = self.launcher.check()
        first, self._first = self._first, None
        if first is None:
            self._failure = self._failure or self._fork()
        elif self._failure is None:
            self._take_first(first)
        else:
            first.abandon()
        if self.control is None:
            self.control = Control(self)
        if self.child is not None:
            self._record.update(pid=self.child.pid, pid_start=self.child.start)
        self._save()
        if self._failure is not None:
            self._ended(self._failure.exit_code)

    def _fork(self) -> launch.Failure | None:
        try:
            self._oom_before = self.host.oom_kills(self.cgroup)
            streams = Streams(self.loop, self.log)
            try:
                streams.make(self.launcher.terminal, bool(self.document.get("stdin_open")))
                self.child = child = self.launcher.start(streams.stdio, streams.console, hold=self._hold)
            except BaseException:
                streams.close()
                raise
            finally:
                if self._hold is not None:
                    os.close(self._hold)
                    self._hold = None
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            text = f"cannot start: {error.strerror or error}{where}".lower()
            return launch.Failure("fork", text)
        self._watch(streams, child)
        return None

    def _take_first(self, first: early.Early) -> None:
        """It was forked before, and is being brought up."""
        assert first.child is not None
        self._oom_before, self.child = first.oom_before, first.child
        self._watch(Streams(self.loop, self.log, first.outputs), first.child)

    def _watch(self, streams: Streams, child: launch.Child) -> None:
        streams.started()
        self.streams = streams
        if len(ends := streams.outputs()) == 2:
            hold(os.path.dirname(os.path.dirname(self._live)), str(self.document["id"]), ends)
        self.loop.watch(child.report, self._reported)
        self.loop.watch(child.pidfd, self._exited)

    def _reported(self) -> None:
        """The program was exec'ed, or why not; in the latter case the child's end follows."""
        assert self.child is not None
        self.loop.forget(self.child.report)
        self._failure = launch.read_report(self.child)
        if self._failure is not None:
            return
        self._execed_at = time.monotonic()
        self.health.begin()
        if self._memory.streak:
            self._does_well()
        self._advance("execed", started_at=time.time(), error="", next_start_at=0.0, **self.health.standing())
        self.happened("start")
        if not self._ending:
            self._tell(None)
            started, self._started = self._started, None
            if started is not None:
                started()

    def _exited(self) -> None:
        child = self.child
        assert child is not None
        code = launch.ended(self.loop, child, self._exited)
        if code is None:
            return
        if not self._execed_at and self._failure is None:
            self._reported()  # both came in the same round
        self.loop.forget(child.report)
        self.loop.forget(child.pidfd)
        child.close()
        self.child = None
        self._ended(self._failure.exit_code if self._failure else code)

    def _ended(self, code: int) -> None:
        """The run is over: tidy up, and do what the tables say."""
        self.thaw()
        now = time.monotonic()
        self.loop.cancel(self._timer)
        self.loop.cancel(self._well_timer)
        self._timer = None
        liveness = self.health.liveness()
        self.health.end()
        if not self.launcher.own_pids:  # the kernel ends the others only where the first was PID 1
            self.kill_all()
        if self.streams is not None:
            self.streams.close()
            self.streams = None
        unhealthy = self._ending in (UNHEALTHY, UNHEALTHY_STOP)
        well = 0.0
        if self._execed_at:
            well = supervise.well_for(self._execed_at, now, liveness, unhealthy=unhealthy)
        self._record.update(
            pid=0,
            pid_start=0,
            exit_code=code,
            finished_at=time.time(),
            oom_killed=code == 128 + signal.SIGKILL and self._oom_kills() > self._oom_before,
            error=self._failure.message if self._failure else "",
            log_dropped=self.log.dropped,
            **self.health.standing(),
        )
        if self._execed_at:
            if self._record["oom_killed"]:
                self.happened("oom")
            self.happened("die", exitCode=code, execDuration=int(now - self._execed_at))
        self._follow(supervise.End(code, well, unhealthy))

    def _follow(self, end: supervise.End) -> None:
        if self._ending in (STOP, SHUTDOWN):
            self._finish("stopped")
            return
        taken_along = self._is_taken_along()
        memory = supervise.RestartMemory() if taken_along else self._memory
        decision = supervise.after_end(self.restart, memory, end)
        never_ran = self._report is not None and self._failure is not None  # who asked is told, and decides
        if never_ran or self._ending == UNHEALTHY_STOP or isinstance(decision, supervise.Leave):
            if end.unhealthy:
                self._record["error"] = supervise.PROBE_STOPPED
            self._finish("leave")
            return
        why = supervise.OWNER
        if not taken_along:
            self._memory = decision.memory
            why = supervise.reason(end, started=self._failure is None, oom=self._record["oom_killed"])
        reasons = self._record["restart_reasons"]
        self._record.update(
            restarts=self._record["restarts"] + 1,
            restart_reasons={**reasons, why: reasons.get(why, 0) + 1},
            streak=self._memory.streak,
            attempts=self._memory.attempts,
        )
        self.phase = supervise.advance(self.phase, "retry")
        if taken_along:
            self._await_owner(launch.AGAIN if self._failure else 0.0)
            self._keep_counts()
            return
        if decision.delay <= 0:
            self.start()
            self._keep_counts()  # not before: it is a write to a disk
            return
        self._keep_counts()
        self._timer = self.loop.after(decision.delay, self.start)
        self._save(next_start_at=time.time() + decision.delay)

    def _is_taken_along(self) -> bool:
        """Whether it ended as the pid namespace did that it has from another one, by no fault of its own."""
        if not self.document.get("joins") or not self.launcher.pidns:
            return False
        from runtime.shim import owners  # few containers join another one

        return owners.is_over(self.launcher.pidns)

    def _await_owner(self, pause: float) -> None:
        """Go on with the namespaces that its owner has next, as soon as it runs."""
        from runtime.shim import owners

        def look() -> None:
            try:
                runs = owners.renew(self.document["joins"], self._live)
            except OSError as error:
                self.note(f"cannot join namespaces of others: {error}")
                runs = False
            if runs:
                self.start()
            else:
                self._await_owner(min(max(owners.SOON, 2 * pause), owners.LONGEST))

        self._timer = self.loop.after(pause, look)
        if self._record["error"] != supervise.OWNER_ENDED:
            self._save(error=supervise.OWNER_ENDED)

    def _does_well(self) -> None:
        """A run that was restarted ends the streak as soon as no end of it would go on with it."""
        health, liveness = self.health.standing()["health"], self.health.liveness()
        left = supervise.until_well(self.restart, self._execed_at, time.monotonic(), health, liveness)
        if left > 0:
            self._well_timer = self.loop.after(left, self._does_well)
        else:
            self._memory = self._memory._replace(streak=0)
            self._save(streak=0)
            self._keep_counts()

    def _finish(self, event: str) -> None:
        """The last word: the container is left alone, and so the shim ends."""
        self._advance(event, health=supervise.NONE, next_start_at=0.0)
        if self._ending != SHUTDOWN:
            self._write(EXIT, self.state(), durable=not self.document.get("brief"))
        if self._ending == STOP:
            self.happened("stop")
        self._tell(self._failure or launch.Failure("stop", "it was stopped while it started"))
        if self.control is not None:
            self.control.ended(self._record["exit_code"])
        dropped = self.log.dropped
        self.log.close()
        if self.log.dropped != dropped:
            self.note(f"its logger did not take {self.log.dropped - dropped} bytes of output in time")
            self._log_dropped()
            if self._ending != SHUTDOWN:
                self._write(EXIT, self.state(), durable=False)
        self.loop.ended = True

    def abandon(self) -> None:
        """Who asked for the first start has gone before its program might run: init finds the same, and ends.
        The container is still wanted."""
        if self._ending == NOTHING and self.phase not in supervise.FINAL:
            self._ending = SHUTDOWN
            self._advance("stop")

    def known_pids(self) -> set[int]:
        """Children of the shim that are waited for elsewhere."""
        sessions = self.control.sessions() if self.control is not None else []
        children = [self.child, *sessions, *(probe.child for probe in self.health.running())]
        return {child.pid for child in children if child is not None}

    # -- ending a run

    def stop(self, number: int, timeout: float, why: str = STOP) -> None:
        """Signal now, SIGKILL to everything after `timeout` seconds. Repeatable: the nearer deadline
        holds."""
        if self.phase in supervise.FINAL:
            return
        if self._ending in (NOTHING, UNHEALTHY, UNHEALTHY_STOP):
            self._ending = why
        self.thaw()
        running = self.child is not None
        self._advance("stop")
        # PID 1 ignores signals that it has no handler for: pid_namespaces(7)
        if running and not self._execed_at:
            timeout = 0.0
        if not running:
            self.loop.cancel(self._timer)
            self._timer = None
            self._record.update(error="")
            self._finish("stopped")
            return
        if timeout <= 0:
            self.kill_all()
            return
        assert self.child is not None
        self.child.signal(number)
        deadline = time.monotonic() + timeout
        if self._timer is None or self._timer.at > deadline:
            self.loop.cancel(self._timer)
            self._timer = self.loop.after(timeout, self.kill_all)

    def stop_by_document(self, why: str) -> None:
        self.stop(self.stop_signal(), float(self.document.get("stop_timeout", 10.0)), why)

    def stop_signal(self) -> int:
        return signals.number_of(self.document.get("stop_signal") or "SIGTERM")

    def kill_all(self) -> None:
        """SIGKILL to every process of the container."""
        self.thaw()
        if self.child is not None:
            self.child.signal(signal.SIGKILL)
        if not self.launcher.own_pids:
            try:
                self.host.kill(self.cgroup, KILL_TIMEOUT)
            except OSError as error:
                self.note(f"cannot kill cgroup {self.cgroup}: {error}")

    def is_paused(self) -> bool:
        """By a person: who commits or backs up freezes the cgroup, too, and leaves no mark."""
        return os.access(PAUSED, os.F_OK, dir_fd=self.live_fd)

    def thaw(self) -> None:
        """What is paused must go on to end: signals wait until then."""
        if self.is_paused():
            os.unlink(PAUSED, dir_fd=self.live_fd)
            try:
                self.host.thaw(self.cgroup)
            except OSError as error:
                self.note(f"cannot thaw cgroup {self.cgroup}: {error}")

    def start_now(self) -> None:
        """End a backoff early, and begin anew to count. Harmless in any other phase."""
        if self.phase == supervise.BACKOFF and self._timer is not None:
            timer = self._timer
            self.loop.cancel(timer)
            self._memory = supervise.RestartMemory()
            self._record.update(streak=0, attempts=0)
            self._keep_counts()
            timer.call()

    def adjust(self, change: Document) -> None:
        """New values for what may change while it runs. ValueError when they cannot be read; nothing is
        changed then."""
        before = self.document
        kept = {
            k: v for k, v in before.items() if k not in messages.PROBES or messages.PROBES[1] not in change
        }
        self.document = {**kept, **{k: v for k, v in change.items() if k in messages.ADJUSTABLE}}
        try:
            self.stop_signal()
            self._read_policies()
        except ValueError:
            self.document = before
            self._read_policies()
            raise
        self.log.limit(int(self.document["log_max_size"]), int(self.document["log_max_files"]))
        self._record["name"] = str(self.document["name"])
        self.launcher.oom_score = int(self.document.get("oom_score_adj") or 0)
        self._save(**self.health.standing())

    # -- health

    def probed(self, log: str, result: Document, standing: Document) -> None:
        """A probe has answered: its result joins the log of its kind."""
        kept = [*self._record[log], result][-messages.HEALTH_LOG_ENTRIES :]
        changed = any(self._record[key] != value for key, value in standing.items())
        if standing["health"] not in (self._record["health"], supervise.STARTING):
            self.happened(f"health_status: {standing['health']}")
        self._save(announce=changed, **standing, **{log: kept})

    def stop_unhealthy(self, action: str) -> None:
        """End the run because a probe failed. A first process that would never see the stop signal (it has no
        handler for it, pid_namespaces(7)) gets no grace period either."""
        why = UNHEALTHY if action == "restart" else UNHEALTHY_STOP
        number, timeout = self.stop_signal(), float(self.document.get("stop_timeout", 10.0))
        if self.launcher.own_pids and not signals.is_seen(self._record["pid"], number):
            timeout = 0.0
        self.stop(number, timeout, why)

    # -- telling

    def happened(self, action: str, **attributes: Any) -> None:
        """Among the events of the node."""
        record, log = self._record, str(self.document.get("events_log") or "")
        chronicle.tell(log, "container", action, record["id"], record["name"], **attributes)

    def state(self) -> Document:
        return {**self._record, "log_dropped": self.log.dropped}

    def note(self, text: str) -> None:
        """A line in bundle_dir/shim.log, for people; never fails."""
        try:
            path = f"{self.bundle}/shim.log"
            with open(path, "a") as file:
                if file.tell() > MAX_NOTES:
                    file.truncate(0)
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
        except OSError:
            pass

    def _advance(self, event: str, **changes: Any) -> None:
        self.phase = supervise.advance(self.phase, event)
        self._save(**changes)

    def _save(self, announce: bool = True, **changes: Any) -> None:
        """Rewrite state.json in one rename and tell the agent. What fails is noted: the container matters
        more."""
        lost = self._ending == SHUTDOWN and self.phase in supervise.FINAL
        self._record.update(changes, phase="lost" if lost else self.phase)
        try:
            write_at(self.live_fd, STATE, messages.encode(self.state()))
        except OSError as error:
            self.note(f"cannot write {STATE}: {error}")
        if announce:
            self._announce()

    def _announce(self) -> None:
        path = str(self.document.get("events_socket") or "")
        if not path:
            return
        event = {
            key: self._record[key] for key in ("id", "phase", "health", "ready", "restarts", "exit_code")
        }
        directory, _, name = path.rpartition("/")
        try:
            fd = os.open(directory or "/", os.O_PATH | os.O_CLOEXEC)
            try:
                self._events.sendto(messages.encode(event), f"/proc/self/fd/{fd}/{name}")
            finally:
                os.close(fd)
        except OSError:
            pass  # no agent listens: it will read the record

    def _keep_counts(self) -> None:
        """For the start after a power cut, which leaves nothing under /run."""
        keys = ("restart_reasons", "streak", "attempts")
        self._write(RESTARTS, {key: self._record[key] for key in keys}, durable=False)

    def _write(self, name: str, document: Document, *, durable: bool) -> None:
        try:
            fd = os.open(self.bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                write_at(fd, name, messages.encode(document), durable=durable)
            finally:
                os.close(fd)
        except OSError as error:
            self.note(f"cannot write {name}: {error}")

    def _tell(self, failure: launch.Failure | None) -> None:
        report, self._report = self._report, None
        if report is not None:
            report(failure, self._record["pid"])

    def _oom_kills(self) -> int:
        try:
            return self.host.oom_kills(self.cgroup)
        except OSError:
            return 0
