"""Effects: the engine. It observes, asks the planner, starts what is ready, and remembers how it went.

The agent's loop calls `round` at every wake; `apply` does so until a source is converged or cannot be.
A round uses nothing but a fresh observation: a step counts as in flight until the first round that began
after it ended, so that no snapshot that is older than a step's end is ever planned from.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent import stores
from agent.clock import Clock, SystemClock, local_zone
from agent.execute import Executor, Outcome
from agent.journal import Journal
from agent.planner import backoff, jobs, versions
from agent.planner.images import superseded
from agent.planner.model import (
    Collecting,
    Limits,
    LookUpImage,
    Memory,
    Plan,
    PullImage,
    RepairContainer,
    RepairFirewall,
    RepairNetwork,
    Step,
    Subject,
    World,
)
from agent.planner.plan import plan
from agent.planner.told import told
from agent.planner.updates import Notice, Orders
from agent.recall import keep, recall
from agent.rollouts import Rollouts
from agent.runs import JobBook
from agent.sight import Sight
from agent.tally import Tally
from agent.verdict import Verdict, judge
from agent.view import BackupView, JobView, OrphanView
from runtime.interface import Progress, Runtime
from runtime.observations import Observed
from specs.desired import Desired
from specs.fingerprint import digests

#: seconds that everything must stay well before `apply` says so, after it changed something
SETTLE = 0.3
#: the longest pause between two rounds of `apply`, in seconds (health checks are seen by looking)
LOOK = 0.25

REPAIRS = (RepairContainer, RepairFirewall, RepairNetwork)


@dataclass(frozen=True, slots=True)
class Event:
    """Something for people while `apply` runs. `kind`: begin | done | failed | blocked | progress."""

    kind: str
    text: str
    step: Step | None = None
    progress: Progress | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """What one round saw and decided."""

    observed: Observed
    plan: Plan
    in_flight: Mapping[Subject, Step]
    seconds: float
    orphans: tuple[OrphanView, ...] = ()
    backups: tuple[BackupView, ...] = ()
    jobs: tuple[JobView, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """How `apply` ended. `ok`: all is running and healthy. `steps`: how many steps were done."""

    ok: bool
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: int = 0
    round: Round | None = None


@dataclass(slots=True)
class _Wanted:
    desired: Desired
    revision: str = ""
    drop_volumes: bool = False
    previous: Desired | None = None  # of the revision before


@dataclass(slots=True)
class _Flight:
    step: Step
    number: int = 0  # in the journal
    begun_at: float = 0.0


EventCallback = Callable[[Event], None]
NoticeCallback = Callable[[Notice], None]


@dataclass
class _State:
    wanted: dict[str, _Wanted] = field(default_factory=dict)
    changed: bool = False


class Engine:
    """One an opened runtime. `round`, `plan_once` and `apply` are called by one thread at a time."""

    def __init__(
        self,
        runtime: Runtime,
        journal: Journal | None = None,
        *,
        rollouts: Rollouts | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
        on_wake: Callable[[], None] | None = None,
        on_event: EventCallback | None = None,
        on_notice: NoticeCallback | None = None,
    ) -> None:
        self._runtime, self._journal, self._rollouts = runtime, journal, rollouts
        self._orders, self._on_notice = Orders(), on_notice
        self._clock: Clock = clock or SystemClock()
        self.limits = limits or Limits()
        self.memory = Memory()
        if journal is not None:
            self.memory = recall(journal.remembered, self._clock, self.memory)
        #: when images that nobody needs are removed; None: never
        self.collecting: Collecting | None = None
        #: whether backups of volumes are made when they are due
        self.backing_up = False
        self._book: JobBook | None = None
        self._sources: Collection[str] | None = None
        #: whether something is done about containers that no source declares
        self.by_hand = False
        self._zone = local_zone()
        self._sight = Sight(runtime)
        self.tally = Tally()
        runtime.watch_transfers(self.tally.transfer)
        self._on_wake, self._on_event = on_wake, on_event
        self._lock = threading.Lock()
        self._state = _State()
        if rollouts is not None:
            self._orders = rollouts.orders()
            self.memory = replace(self.memory, versions=rollouts.versions())
        self._flights: dict[Subject, _Flight] = {}
        self._finished: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._woken = threading.Event()
        self._last_plan = ""
        self._executor = Executor(
            runtime, self.limits, begun=self._begun, done=self._done, progress=self._progress
        )

    def close(self) -> None:
        """Wait for the steps that have begun; what they did is written down."""
        self._executor.close()
        self._collect()

    def keep_schedules(self, sources: Collection[str] | None = None) -> None:
        """Jobs run at their times from now on: whoever calls this goes on calling `round`. `sources` are
        those in the settings (None: whatever a job is of)."""
        self._sources = sources
        if self._journal is not None:
            self._book = JobBook(self._journal)
            self.memory = replace(self.memory, jobs=self._book.jobs)

    # ------------------------------------------------------------ what is wanted

    def want(
        self,
        desired: Desired,
        revision: str = "",
        *,
        drop_volumes: bool = False,
        previous: Desired | None = None,
    ) -> None:
        """`desired` is in force for its source from the next round on. Thread-safe.

        The images of the revision before, `previous` or what was wanted until now, are kept for a rollback.
        """
        with self._lock:
            before = self._state.wanted.get(desired.source)
            if previous is None and before is not None:
                previous = before.previous if before.revision == revision else before.desired
            self._state.wanted[desired.source] = _Wanted(desired, revision, drop_volumes, previous)
            self._sight.forget()
            self._state.changed = True
            depends = {
                name: frozenset(d.container for d in c.depends_on) for name, c in desired.containers.items()
            }
            self.memory = backoff.new_revision(self.memory, desired.source, depends)
            if self._journal is not None and revision:
                pulled = self.memory.pulled | self._journal.pulled(desired.source, revision)
                self.memory = replace(self.memory, pulled=pulled)
        self.wake()

    def touched(self) -> None:
        """Files that images are built from may have changed. Thread-safe."""
        self._sight.forget()
        self.wake()

    def forget(self, source: str) -> None:
        """`source` is no longer planned; what it declared stays as it is."""
        with self._lock:
            self._state.wanted.pop(source, None)

    def wake(self) -> None:
        self._woken.set()
        if self._on_wake is not None:
            self._on_wake()

    # ------------------------------------------------------------ rounds

    def plan_once(self, desired: Desired | None = None, revision: str = "") -> Plan:
        """What would be done now, for every source, or for `desired` alone. Nothing is started."""
        self._read_orders()
        world = self._world(self._runtime.observe(), desired, revision)
        return plan(replace(world, memory=versions.look(world)))

    def _world(self, observed: Observed, only: Desired | None = None, revision: str = "") -> World:
        with self._lock:
            wanted = dict(self._state.wanted)
            memory = self.memory
            if only is not None:
                wanted = {only.source: _Wanted(only, revision)}
                if self._journal is not None and revision:
                    memory = replace(memory, pulled=self._journal.pulled(only.source, revision))
            in_flight = {subject: flight.step for subject, flight in self._flights.items()}
        now = self._clock.monotonic()
        desired = {name: item.desired for name, item in wanted.items()}
        return World(
            desired=desired,
            observed=observed,
            memory=memory,
            in_flight=in_flight,
            now=now,
            limits=self.limits,
            drop_volumes=frozenset(name for name, item in wanted.items() if item.drop_volumes),
            inputs=self._sight.inputs(desired.values(), now, memory.built),
            previous={name: item.previous for name, item in wanted.items() if item.previous is not None},
            collecting=self.collecting,
            backing_up=self.backing_up,
            by_hand=self.by_hand,
            clock=self._clock.time(),
            zone=self._zone,
            revisions={name: item.revision for name, item in wanted.items()},
            orders=self._orders,
        )

    def round(self) -> Round:
        """Observe, plan, start what is ready. Raises Fault when the machine cannot be observed."""
        begin = self._clock.monotonic()
        self._zone = local_zone()  # somebody may have moved the machine
        self._woken.clear()
        self._collect()
        with self._lock:
            changed, self._state.changed = self._state.changed, False
        if changed:
            for subject in self._executor.cancel_queued():
                self._flights.pop(subject, None)
        self._read_orders()
        observed = self._runtime.observe()
        self._note_jobs(observed)
        world = self._learned(self._world(observed))
        decided = plan(world)
        for ref in superseded(world):
            self._runtime.cancel_build(ref)
        self._start(decided.ready, observed)
        self._write_down(decided)
        seconds = self._clock.monotonic() - begin
        self.tally.round(decided, bool(self._flights), seconds)
        flights = {subject: flight.step for subject, flight in self._flights.items()}
        return Round(
            observed,
            decided,
            flights,
            seconds,
            stores.orphans(world),
            stores.backups(world),
            stores.jobs(world.memory.jobs, world.clock),
        )

    def _note_jobs(self, observed: Observed) -> None:
        """What is to be known of them before anything is begun for them."""
        if self._book is None:
            return
        asked = self._book.asked()
        with self._lock:
            wanted = {name: item.desired for name, item in self._state.wanted.items()}
            known, clock, uptime = self.memory.jobs, self._clock.time(), self._clock.monotonic()
            # those of a source of which nothing is in force yet wait for it
            waits = {name for name, job in known.items() if job.source not in wanted and not job.orphan}
            asked = {name: times for name, times in asked.items() if name not in waits}
            noted = jobs.note(
                wanted,
                observed,
                known,
                self._flights,
                clock,
                self._zone,
                asked,
                uptime,
                self._orders,
                self._sources,
            )
            self.memory = replace(self.memory, jobs=noted.jobs)
        histories = {
            container.name: container.job.history
            for desired in wanted.values()
            for container in desired.containers.values()
            if container.job is not None
        }
        self._book.write(noted.jobs, noted.ended, histories, asked)

    @property
    def outdated(self) -> bool:
        """Whether something else is wanted since the last round began."""
        return self._state.changed

    @property
    def orders(self) -> Orders:
        """What people ordered, as of the last round."""
        return self._orders

    def kept_secrets(self) -> set[str]:
        """Digests of secrets and configs in versions that there is to go back to."""
        known = self.memory.versions.values()
        wants = (want for found in known for version in found for want in version.spec.containers)
        return {digest for want in wants for digest in digests(want.facets)}

    def _read_orders(self) -> None:
        """What another process wrote since the last round: orders, and versions that were released."""
        if self._rollouts is None or not self._rollouts.changed():
            return
        self._orders = self._rollouts.orders()
        with self._lock:
            self.memory = versions.reread(self.memory, self._rollouts.versions())

    def _learned(self, world: World) -> World:
        """With what this look teaches of versions, which is written down before anything is done about it."""
        before = world.memory.versions
        seen = versions.look(world)
        with self._lock:
            self.memory = replace(self.memory, versions=seen.versions, watched=seen.watched)
        if self._rollouts is not None and seen.versions is not before:
            self._rollouts.keep(before, seen.versions)
        for notice in versions.news(before, seen.versions, world.observed.image_ids):
            self.tally.notice(notice)
            if self._journal is not None:
                about = {"source": notice.source, "revision": notice.revision, "instead": notice.instead}
                self._journal.happened(notice.kind, notice.name, **about, reason=notice.reason)
            if self._on_notice is not None:
                self._on_notice(notice)
        return replace(world, memory=seen)

    def mend_networks(self, last: Observed) -> Round:
        """As `round`, but looks at networks only and starts only repairs: quick, since a path may be down.
        `last` is what the last round saw. Steps that ended since are left to the next round."""
        begin = self._clock.monotonic()
        observed = self._runtime.observe_networks(last)
        decided = Plan()
        if _has_defects(observed):
            decided = plan(self._world(observed))
            self._start(
                [step for step in decided.ready if isinstance(step.action, REPAIRS)],
                observed,
            )
        seconds = self._clock.monotonic() - begin
        self.tally.look(seconds)
        flights = {subject: flight.step for subject, flight in self._flights.items()}
        return Round(observed, decided, flights, seconds)

    def _start(self, steps: Sequence[Step], observed: Observed) -> None:
        for step in steps:
            self._flights[step.subject] = _Flight(step)
            self.tally.begin(step, observed)
            self._executor.start(step)

    def in_flight(self) -> list[tuple[Step, float]]:
        """(step, seconds since the epoch when it began; 0.0: it is queued)"""
        return [(flight.step, flight.begun_at) for flight in list(self._flights.values())]

    def wait(self, timeout: float) -> bool:
        """Until a step ends or somebody calls `wake`. False when `timeout` seconds passed first."""
        return self._woken.wait(timeout)

    def _write_down(self, decided: Plan) -> None:
        if self._journal is None:
            return
        now = self._clock.time()
        self._journal.blocked(decided.blocked, now)
        text = str(decided)
        if decided.steps and text != self._last_plan:
            self._journal.plan(text, now)
        self._last_plan = text

    # ------------------------------------------------------------ steps

    def _begun(self, step: Step) -> None:
        now = self._clock.time()
        flight = self._flights[step.subject]
        flight.begun_at = now
        if self._journal is not None:
            wanted = self._state.wanted.get(step.source)
            flight.number = self._journal.begin(step, wanted.revision if wanted else "", now)
        self._tell(Event("begin", str(replace(step, after=frozenset())), step))

    def _done(self, outcome: Outcome) -> None:
        self._finished.put(outcome)
        self.wake()

    def _progress(self, progress: Progress) -> None:
        self._tell(Event("progress", progress.what, progress=progress))

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _collect(self) -> None:
        """Take in how steps ended, since the last round."""
        while not self._finished.empty():
            outcome = self._finished.get()
            step, now = outcome.step, self._clock.monotonic()
            flight = self._flights.pop(step.subject)
            self.tally.end(outcome)
            if step.subject.kind == "image":
                self._sight.forget()  # a base image may be another one now
            with self._lock:
                if outcome.ok:
                    self.memory = backoff.succeeded(self.memory, step, now, self.limits, outcome.result)
                else:
                    self.memory = backoff.failed(
                        self.memory, step, outcome.code, outcome.message, now, self.limits
                    )
            if self._journal is not None:
                said = outcome.message or told(outcome.result)
                self._journal.end(flight.number, outcome.seconds, outcome.code, said)
                result = {"result": "ok" if outcome.ok else "failed", "code": outcome.code, "message": said}
                about = {"kind": step.subject.kind, "source": step.source}
                self._journal.happened(f"step {step.verb}", step.subject.name, **about, **result)
                self._remember(step, outcome)
            kind = "done" if outcome.ok else "failed"
            self._tell(Event(kind, outcome.message or step.id, step, seconds=outcome.seconds))

    def _remember(self, step: Step, outcome: Outcome) -> None:
        assert self._journal is not None
        if not outcome.ok:
            return
        keep(self._journal, self._clock, self.memory, outcome)
        if not isinstance(step.action, PullImage | LookUpImage):
            return
        for source in step.action.sources:
            wanted = self._state.wanted.get(source)
            if wanted is not None and wanted.revision and step.action.image.pull == "always":
                self._journal.add_pulled(source, wanted.revision, str(step.action.image.ref))

    # ------------------------------------------------------------ apply

    def apply(
        self,
        desired: Desired,
        revision: str = "",
        *,
        on_event: EventCallback | None = None,
        timeout: float = 300.0,
        drop_volumes: bool = False,
    ) -> Result:
        """Converge one source. Ends when all of it runs and is healthy, when what does not cannot, or late.

        Things that fail do not keep others from converging. What was begun is finished before this returns.
        """
        self._on_event = on_event
        self.want(desired, revision, drop_volumes=drop_volumes)
        deadline = self._clock.monotonic() + timeout
        restarts: dict[str, int] = {}
        steps, well_since = 0, None
        last: Round | None = None
        while True:
            last = self.round()
            steps += sum(1 for step in last.plan.ready if step.subject in last.in_flight)
            verdict = judge(desired, last, restarts, self._clock.time())
            now = self._clock.monotonic()
            if not verdict.pending:
                well_since = now if well_since is None else well_since
                if verdict.failures or not steps or now - well_since >= SETTLE:
                    return Result(not verdict.failures, verdict.failures, verdict.notes, steps, last)
            else:
                well_since = None
            if now >= deadline:
                return self._too_late(verdict, timeout, steps, last)
            self._pause(last, well_since, deadline - now)

    def _too_late(self, verdict: Verdict, timeout: float, steps: int, last: Round) -> Result:
        late = tuple(f"{text} (gave up after {timeout:g} s)" for text in verdict.pending)
        return Result(False, verdict.failures + late, verdict.notes, steps, last)

    def _pause(self, last: Round, well_since: float | None, left: float) -> None:
        """Until something happens. While steps run, half of the time is left to them."""
        longest = min(LOOK, SETTLE / 2) if well_since is not None else LOOK
        if last.plan.wake_at is not None:
            longest = min(longest, max(0.0, last.plan.wake_at - self._clock.monotonic()))
        self.wait(max(0.001, min(longest, left)))
        if last.in_flight:
            self._leave_room(last)

    def _leave_room(self, last: Round) -> None:
        """Let steps run before the next look; longer when none waits for one of them."""
        until = time.monotonic() + min(0.1, max(0.002, last.seconds))
        latest = until if last.plan.steps else time.monotonic() + LOOK
        while (now := time.monotonic()) < latest and (now < until or self.busy()):
            time.sleep(0.004)

    def busy(self) -> bool:
        """Whether a step is queued or runs."""
        return self._executor.busy()

    def down(
        self,
        desired: Desired,
        *,
        volumes: bool = False,
        on_event: EventCallback | None = None,
        timeout: float = 300.0,
    ) -> Result:
        """Remove all that `desired.source` declared, dependents first; its volumes only when told."""
        self.want(desired)  # for the order in which its containers go
        empty = Desired(source=desired.source)
        return self.apply(empty, on_event=on_event, timeout=timeout, drop_volumes=volumes)


def _has_defects(observed: Observed) -> bool:
    """Of those that a look at networks can find, and perhaps others."""
    if observed.firewall or any(network.defects for network in observed.networks.values()):
        return True
    return any(container.defects for container in observed.containers.values())
