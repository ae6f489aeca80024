"""Decisions: when containers with a schedule run, what becomes of runs that meet, fail, hang or were missed.

Two pure halves. `note` takes in what a look found: it moves a job's memory on and tells which runs ended.
`steps` says what to do: start the first run of the queue, or stop the one that runs.

    a time comes     nothing runs or waits         it is queued
                     one runs, or waits   skip     it is skipped
                                          queue    it is queued, QUEUED at most
                                          replace  it is the queue, and what runs is stopped; what
                                                   waited is skipped
    a time passed    catch_up once                 the last of those that passed comes as if it came now
    unseen           catch_up skip                 it is missed
    a run ends       exit code 0                   ok; failed, where its probe stopped it
                     else                          failed
                     after its deadline            deadline: it was stopped by us
                     replace, one is queued        replaced: likewise
                     stopped by somebody           stopped
                     another one runs in its       stopped: somebody restarted it, which is a run by hand
                     place
                     its container was removed     stopped
                     its supervisor is gone        lost
    failed, deadline, lost: tried again at the head of the queue, `retries` times, `retry_delay` doubling to
    an hour after the end. What waits to be tried again counts as running.

A time is settled once, whatever becomes of it; that it is settled is written down before its run begins,
and a run that nobody remembers (the agent was killed just then) is known by its start and taken for the one
that was queued: no time is served twice. The exception is a clock that is set back by more than JUMP or the
distance of two times: then it counts anew from there, as cron(8) does. A clock that is set forward makes
times pass unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from types import MappingProxyType

from agent.planner.model import JOB_RUNS, Blocked, Cause, RunJob, Step, StopContainer, Subject, World
from agent.planner.runs import Due, Ended, Job, Run
from agent.planner.updates import NONE, Orders, hand_stopped, suspension
from runtime.observations import Observed, ObservedContainer, Phase
from specs.desired import Desired, DesiredContainer, DesiredJob
from specs.schedule import Schedule

BUSY = frozenset({Phase.STARTING, Phase.RUNNING, Phase.BACKOFF, Phase.STOPPING})
_RAN = frozenset({Phase.RUNNING, Phase.STOPPING, Phase.EXITED, Phase.STOPPED})
_AGAIN = frozenset({"failed", "deadline", "lost"})
#: runs that wait, at most
QUEUED = 10
#: seconds that a look may come late without the time having passed unseen
GRACE = 90.0
#: seconds by which the clock may be set back without times coming again
JUMP = 3 * 3600.0
#: seconds by which the clock may wander during a run before that is noted, and by which the first process may
#: be there before its program: it may have waited for its container (runtime/spares.py)
WANDER, AHEAD = 0.5, 60.0
#: ticks in a second of times in /proc: sysconf(3), _SC_CLK_TCK
TICKS = 100.0
#: the longest pause before a retry, in seconds
RETRY_MAX = 3600.0
_NOBODY: Mapping[str, Sequence[float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Noted:
    jobs: Mapping[str, Job]
    ended: tuple[Ended, ...] = ()


def note(
    desired: Mapping[str, Desired],
    observed: Observed,
    jobs: Mapping[str, Job],
    flying: Collection[Subject],
    clock: float,
    zone: tzinfo,
    asked: Mapping[str, Sequence[float]] = _NOBODY,
    uptime: float = 0.0,
    orders: Orders = NONE,
    sources: Collection[str] | None = None,
) -> Noted:
    """What is known of every job after a look at `clock`, which is `uptime` seconds after the machine's boot
    (0.0: nobody knows); `asked` is when somebody asked for a run. Jobs that their source no longer declares
    are forgotten; those of other sources stay, of such as are not in `sources` (None: all are) as long as
    their containers do."""
    found = _others({name: job for name, job in jobs.items() if job.source not in desired}, observed, sources)
    ended: list[Ended] = []
    for source, wanted in desired.items():
        for name, want in wanted.containers.items():
            have = observed.containers.get(name)
            if want.job is None or (have is not None and have.source != source):
                continue
            if have is not None and is_service(have):
                have = None  # it is to be replaced, and no run
            work = _Note(want, want.job, source, jobs.get(name), have, clock, zone, uptime)
            work.held = _held(want, source, observed, orders, clock)
            work.ended_for_good = want.desired != "running" or name in observed.hand_stops
            moved = Subject("container", name) in flying or (have is not None and have.busy)
            found[name] = work.run(asked.get(name, ()), look=not moved)  # else it may be half of a restart
            ended += work.ended
    return Noted(dict(sorted(found.items())), tuple(ended))


def _others(jobs: Mapping[str, Job], observed: Observed, sources: Collection[str] | None) -> dict[str, Job]:
    found = {}
    for name, job in jobs.items():
        have = observed.containers.get(name)
        if sources is None or job.source in sources:
            found[name] = job
        elif have is not None and have.source == job.source:
            why = f"its source {job.source} is not in the settings"
            found[name] = replace(job, orphan=True, next_at=None, held=why)
    return found


def _held(want: DesiredContainer, source: str, observed: Observed, orders: Orders, clock: float) -> str:
    """Why no run of it begins until a person does something about it; as it is told of any container."""
    if want.desired != "running":
        return f"its spec says that it is to be stopped ({want.place})"
    if reason := suspension(orders, want, want.name, source, clock):
        return reason
    if want.suspend:
        return f"suspended: {want.suspend}"
    stop = observed.hand_stops.get(want.name)
    return "" if stop is None else hand_stopped(want.name, stop)


def begun(jobs: Mapping[str, Job], name: str, due: Due) -> Mapping[str, Job]:
    """After its start succeeded."""
    job = jobs.get(name)
    if job is None:
        return jobs
    queue = tuple(item for item in job.queue if item != due)
    return {**jobs, name: replace(job, queue=queue, run=Run(due))}


class _Note:
    """One job, one look."""

    def __init__(
        self,
        want: DesiredContainer,
        plan: DesiredJob,
        source: str,
        job: Job | None,
        have: ObservedContainer | None,
        clock: float,
        zone: tzinfo,
        uptime: float,
    ) -> None:
        self.want, self.plan, self.source, self.have = want, plan, source, have
        self.clock, self.zone, self.uptime = clock, zone, uptime
        self.job = job or Job(
            _first(have, clock), seen=0.0 if have is None or _busy(have) else have.started_at
        )
        self.ended: list[Ended] = []
        self.held = ""  # else its times pass
        self.ended_for_good = False  # what runs is stopped for no run's sake

    def run(self, asked: Sequence[float], *, look: bool) -> Job:
        schedule = str(self.plan.schedule)
        if self.job.schedule not in ("", schedule):  # another one begins to count when it is declared
            self.job = replace(self.job, settled=self.clock)
        self.job = replace(self.job, source=self.source, schedule=schedule)
        self._clock_set_back()
        if look:
            self._look()
        if not self.held:
            self._come()
        for at in asked:
            self._admit(Due(at, "hand"))
        self._give_way(0 if look or self.job.run is not None else 1)
        next_at = _next(self.plan.schedule, self.job.settled, self.zone) if not self.held else None
        return replace(self.job, next_at=next_at, held=self.held, orphan=False)

    def _clock_set_back(self) -> None:
        following = _next(self.plan.schedule, self.job.settled, self.zone)
        distance = JUMP if following is None else following - self.job.settled
        if self.job.settled - self.clock > min(JUMP, distance):
            self.job = replace(self.job, settled=self.clock)
        queue = self.job.queue
        if queue and queue[0].begin > self.clock:
            latest = self.clock + self._pause(queue[0].attempt - 1)
            head = replace(queue[0], begin=min(queue[0].begin, latest))
            self.job = replace(self.job, queue=(head, *queue[1:]))

    # -- runs

    def _look(self) -> None:
        have, run = self.have, self.job.run
        if have is not None and have.phase in _RAN and have.started_at not in (0.0, self.job.seen):
            if run is not None and run.began:  # a person, or what stopped it for a backup
                self._end("stopped", None, have.started_at, "restarted by hand, or for a backup")
                run = Run(Due(have.started_at, "hand"))
            if run is None:
                run = Run(*self._unknown(have.started_at))
            self.job = replace(self.job, run=replace(run, began=have.started_at), seen=have.started_at)
        if self.job.run is None:
            return
        if have is not None and have.phase in _RAN and not self.job.run.began:
            # its start found the last run still at its end, and did nothing
            self.job = replace(self.job, queue=(self.job.run.due, *self.job.queue), run=None)
        elif have is None or have.phase is Phase.CREATED:
            self._end("stopped", None, self.clock, "the container was removed")
        elif have.phase is Phase.LOST:
            self._end("lost", None, self.clock, "its supervisor was killed, or the machine went down")
        elif have.phase in (Phase.EXITED, Phase.STOPPED):
            self._end(self._result(have), have.exit_code, have.finished_at or self.clock, have.error)
        elif have.started_ticks and self.uptime:
            self._measure(have.started_ticks / TICKS)

    def _measure(self, born: float) -> None:
        """The kernel knows how long it runs, whatever is done to the clock; `born` is when its first process
        was made, in seconds after boot."""
        run = self.job.run
        assert run is not None
        guess = self.uptime - (self.clock - run.began)
        since = run.since or min(max(guess, born), born + AHEAD)
        by = self.clock - run.began - (self.uptime - since)
        if abs(by - run.clock_set) < WANDER:
            by = run.clock_set
        self.job = replace(self.job, run=replace(run, clock_set=by, since=since))

    def _took(self, run: Run, ended: float) -> float:
        """Seconds, of one that ended at `ended` by a clock that may have been set since anyone looked."""
        most = self.uptime - run.since
        took = most - max(0.0, self.clock - ended)
        if not run.since or took < 0 or ended < self.clock - self.uptime:  # or that was before this boot
            return run.age(ended)
        return took

    def _unknown(self, began: float) -> tuple[Due]:
        """A run that nobody remembers: the agent ended after it began one, or somebody started it by hand."""
        queue = self.job.queue
        if not queue:
            return (Due(began, "hand"),)
        self.job = replace(self.job, queue=queue[1:])
        return (queue[0],)

    def _result(self, have: ObservedContainer) -> str:
        run, deadline = self.job.run, self.plan.deadline
        ended = have.finished_at or self.clock
        late = run is not None and deadline and self._took(run, ended) >= deadline
        if have.phase is Phase.STOPPED and self.ended_for_good:
            return "stopped"
        if have.phase is Phase.EXITED and not (have.completed and late):
            return "ok" if have.completed else "failed"
        if late:
            return "deadline"
        return "replaced" if self.job.queue and self.plan.concurrency_policy == "replace" else "stopped"

    def _end(self, result: str, exit_code: int | None, ended: float, text: str) -> None:
        run = self.job.run
        assert run is not None
        due = run.due
        line = self._line(due, result, began=run.began or ended, ended=ended, exit_code=exit_code, text=text)
        queue = self.job.queue
        if result in _AGAIN and due.attempt <= self.plan.retries:
            begin = self.clock + self._pause(due.attempt)
            queue = (replace(due, attempt=due.attempt + 1, begin=begin), *queue)
        success = ended if result == "ok" else self.job.last_success
        self.job = replace(self.job, run=None, queue=queue, last=line, last_success=success)

    def _pause(self, attempt: int) -> float:
        """Seconds between the end of an attempt and the next one."""
        return min(RETRY_MAX, self.plan.retry_delay * 2.0 ** min(attempt - 1, 30))

    def _line(
        self,
        due: Due,
        result: str,
        *,
        began: float = 0.0,
        ended: float = 0.0,
        exit_code: int | None = None,
        text: str = "",
    ) -> Ended:
        line = Ended(
            self.want.name,
            self.source,
            due.at,
            due.trigger,
            due.attempt,
            began,
            ended or self.clock,
            exit_code,
            result,
            text,
        )
        counts = dict(self.job.results)
        counts[result] = counts.get(result, 0) + 1
        self.job = replace(self.job, results=tuple(sorted(counts.items())))
        self.ended.append(line)
        return line

    # -- times

    def _come(self) -> None:
        at = latest(self.plan.schedule, self.job.settled, self.clock, self.zone)
        if at is None:
            return
        self.job = replace(self.job, settled=at)
        due = Due(at, "schedule" if self.clock - at <= GRACE else "catch-up")
        if due.trigger == "catch-up" and self.plan.catch_up == "skip":
            self._line(due, "missed", text="nobody looked at that time")
        else:
            self._admit(due)

    def _admit(self, due: Due) -> None:
        job, queue, policy = self.job, self.job.queue, self.plan.concurrency_policy
        free = job.run is None and not queue and not (self.have is not None and _busy(self.have))
        if free or policy == "replace" or (policy == "queue" and len(queue) < QUEUED):
            self.job = replace(job, queue=(*queue, due))
        else:
            self._line(due, "skipped", text="another run had not ended")

    def _give_way(self, begins: int) -> None:
        """To the newest run that waits, where it takes the place of others; `begins` first ones are perhaps
        being started now. What is to be tried again has its line already."""
        queue = self.job.queue
        if self.plan.concurrency_policy != "replace" or len(queue) <= begins + 1:
            return
        for due in queue[begins:-1]:
            if due.attempt == 1:
                self._line(due, "skipped", text="the next run took its place")
        self.job = replace(self.job, queue=(*queue[:begins], queue[-1]))


def is_service(have: ObservedContainer) -> bool:
    """Whether it was made before its specs gave it a schedule: it need not come to an end by itself."""
    return have.restart_policy in ("always", "unless-stopped", "on-failure")


def runs(world: World, have: ObservedContainer) -> bool:
    """Whether a run of it has not ended, or nobody could note its end yet, as somebody acts on it."""
    job = world.memory.jobs.get(have.name)
    return have.phase in BUSY or (have.busy and job is not None and job.run is not None)


def _busy(have: ObservedContainer) -> bool:
    return have.phase in BUSY


def _first(have: ObservedContainer | None, clock: float) -> float:
    """Where the count begins of a job that nothing is remembered of."""
    return clock if have is None else min(clock, max(have.created_at, have.started_at) or clock)


def _next(schedule: Schedule, after: float, zone: tzinfo) -> float | None:
    try:
        return schedule.next(after, zone)
    except ValueError:  # not in our time
        return None


def latest(schedule: Schedule, after: float, clock: float, zone: tzinfo) -> float | None:
    """The last time of `schedule` after `after` that is not after `clock`, however many lie between."""
    first = _next(schedule, after, zone)
    if first is None or first > clock:
        return None
    if schedule.every:
        return max(first, after + (clock - after) // schedule.every * schedule.every)
    found, end = first, clock  # none lies after `end`
    while end - found > 30.0:  # two times are a minute apart at least
        middle = (found + end) / 2
        later = _next(schedule, middle, zone)
        if later is not None and later <= clock:
            found = later
        else:
            end = middle
    return found


# ---------------------------------------------------------------- what to do


def steps(world: World, source: str, want: DesiredContainer, have: ObservedContainer) -> list[Step]:
    """The one step that is to be done now, if any."""
    job = world.memory.jobs.get(want.name)
    if job is None or want.job is None:
        return []
    subject = Subject("container", want.name)
    if have.phase in BUSY:
        if not (text := _why_it_ends(want.job, job, world.clock)) or have.phase is Phase.STOPPING:
            return []
        cause, basis = Cause("schedule", text, want.place), f"{have.id} {have.started_at}"
        return [Step(subject, StopContainer(want.name), cause, source=source, basis=basis)]
    if not job.queue or job.run is not None or job.queue[0].begin > world.clock:
        return []
    due = job.queue[0]  # and no other: a run that nobody remembers was the first one's
    cause = Cause("schedule", _why_it_begins(want.job, due, world.zone), want.place)
    basis = f"{have.id} {due.at} {due.attempt}"
    return [Step(subject, RunJob(want.name, due), cause, source=source, basis=basis)]


def outlived(
    world: World, source: str, want: DesiredContainer, have: ObservedContainer, why: str
) -> tuple[list[Step], Blocked | None]:
    """A job that is to be replaced while it runs: its run comes to its end first, by its deadline at the
    latest."""
    if found := steps(world, source, want, have):
        return found, None
    reason = f"its run is to end before it is replaced: {why}"
    return [], Blocked(Subject("container", want.name), reason, None, JOB_RUNS, source)


def next_look(world: World, want: DesiredContainer) -> float | None:
    """When there is something to do next, by the clock of World.now."""
    job = world.memory.jobs.get(want.name)
    if job is None or want.job is None:
        return None
    times = [item.begin for item in job.queue if item.begin > world.clock]
    if job.run is not None and job.run.began and want.job.deadline:
        times.append(world.clock - job.run.age(world.clock) + want.job.deadline)
    coming = [at for at in times if at > world.clock]
    if job.next_at is not None:  # it may have come since `note`, which takes it in
        coming.append(max(job.next_at, world.clock))
    return world.now + min(coming) - world.clock if coming else None


def _why_it_ends(plan: DesiredJob, job: Job, clock: float) -> str:
    run = job.run
    if plan.deadline and run is not None and run.began and run.age(clock) >= plan.deadline:
        return f"runs for longer than {plan.deadline:g} s"
    if plan.concurrency_policy == "replace" and job.run is not None and job.queue:
        return "the next run takes its place"
    return ""


def _why_it_begins(plan: DesiredJob, due: Due, zone: tzinfo) -> str:
    at = datetime.fromtimestamp(due.at, zone).strftime("%Y-%m-%d %H:%M:%S")
    words = {
        "schedule": f"is due since {at} ({plan.schedule})",
        "catch-up": f"was due at {at} ({plan.schedule}), while nobody looked",
        "hand": f"was asked for by hand at {at}",
    }
    again = f", attempt {due.attempt} of {plan.retries + 1}" if due.attempt > 1 else ""
    return words.get(due.trigger, due.trigger) + again
