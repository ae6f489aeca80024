"""Values: what is remembered of a job, and what is told of its runs. Times are seconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Due:
    """A run that is to begin. `trigger`: schedule | catch-up | hand."""

    at: float  # the time of the schedule that it is for, or when it was asked for
    trigger: str
    attempt: int = 1
    begin: float = 0.0  # not before


@dataclass(frozen=True, slots=True)
class Run:
    """One that has begun. `began` 0.0: its start succeeded, and nobody has seen it yet. `clock_set`: by how
    many seconds the machine's clock was set forward since. `since`: when it began, in seconds after the
    machine's boot; 0.0: not known."""

    due: Due
    began: float = 0.0
    clock_set: float = 0.0
    since: float = 0.0

    def age(self, clock: float) -> float:
        """Seconds that it has run for at `clock`."""
        return clock - self.began - self.clock_set


#: How runs end: with exit code 0, with another one, at their deadline, for the sake of the next one, on
#: request, with their supervisor (a power cut, kill -9); and what never ran: beside another one, while nobody
#: looked.
RESULTS = ("ok", "failed", "deadline", "replaced", "stopped", "lost", "skipped", "missed")


@dataclass(frozen=True, slots=True)
class Ended:
    """One line of a job's history. `began` is 0.0 for what never ran."""

    name: str
    source: str
    due: float
    trigger: str
    attempt: int
    began: float
    ended: float
    exit_code: int | None
    result: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """`settled`: all times of the schedule up to then are dealt with. `seen`: start of the newest run that
    was noted. `results` counts by RESULTS since the job is known. `last` is the last run that really ran.
    `held`: why none begins until a person does something about it; empty: nobody keeps it from running.
    `orphan`: that its source is not in the settings."""

    settled: float
    source: str = ""
    seen: float = 0.0
    queue: tuple[Due, ...] = ()
    run: Run | None = None
    schedule: str = ""
    next_at: float | None = None  # of the schedule; None: never, or not while things are as they are
    last: Ended | None = None
    last_success: float = 0.0  # when the last good run ended
    results: tuple[tuple[str, int], ...] = ()
    held: str = ""
    orphan: bool = False
