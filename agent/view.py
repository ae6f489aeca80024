"""Values: one frozen picture of the agent for those who show it: status, ps, explain, the HTTP API, metrics.

The loop replaces the whole View after every round; readers take the reference once and never wait.
All times are seconds since the epoch (0.0: never); `retry_in` is seconds from `View.at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from runtime.observations import Observed, Sample

#: Said in place of the phase of a container that is restarted in a row and does not do well.
CRASH_LOOP = "crash-loop"


@dataclass(frozen=True, slots=True)
class SourceView:
    """One source. `revision` is the one in force; `errors` belong to `seen`, the newest one looked at."""

    name: str
    kind: str  # directory | git
    location: str  # path or URL (credentials left out)
    revision: str = ""  # in force; "" when there never was a good one
    revision_note: str = ""  # subject and author of the commit, or the number of files
    revision_at: float = 0.0  # when it was put in force
    seen: str = ""
    seen_at: float = 0.0
    errors: tuple[str, ...] = ()  # file:line:column: problem, of `seen`
    fetch_error: str = ""  # why the source itself could not be read
    held: str = ""  # why `seen` is not in force, though nothing is wrong with it
    last_success: float = 0.0  # when everything it declares was last converged
    containers: int = 0  # declared


@dataclass(frozen=True, slots=True)
class StepView:
    id: str  # "start container shop/web"
    verb: str
    kind: str
    name: str
    source: str
    reason: str  # Cause.reason
    cause: str
    started_at: float = 0.0  # in flight since; 0.0: not started
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockedView:
    kind: str
    name: str
    source: str
    code: str
    reason: str
    retry_in: float | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class OrphanView:
    """A volume that nothing declares any more. `size` is bytes that it had then; -1: not known."""

    name: str
    source: str
    since: float
    size: int
    goes_at: float | None = None  # when it is removed by itself; None: never


@dataclass(frozen=True, slots=True)
class BackupView:
    """Of a volume with a schedule. `at` is when the last good one was begun (0.0: never), `bytes` its file's
    size; `drilled_at` when one was last restored aside and found well; `error` why the last attempt
    failed."""

    volume: str
    source: str
    at: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    path: str = ""
    next_at: float | None = None
    drilled_at: float = 0.0
    drill_seconds: float = 0.0
    next_drill_at: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class JobView:
    """Of a container with a schedule. `state`: idle | waiting (a run is due, or to be tried again) |
    running | orphan (its source is not in the settings). `held`: why no run begins until a person does
    something. `began` is of the run that runs (0.0: none); `last_*` of the newest one that ran.
    `retry_at`: when the run that waits may begin."""

    name: str
    source: str
    schedule: str
    state: str
    next_at: float | None = None
    began: float = 0.0
    retry_at: float | None = None
    last_result: str = ""
    last_exit_code: int | None = None
    last_began: float = 0.0
    last_ended: float = 0.0
    last_success: float = 0.0
    results: Mapping[str, int] = field(default_factory=dict)
    held: str = ""


@dataclass(frozen=True, slots=True)
class ImageCounters:
    """Since the agent's start. `result` is ok or a fault code; seconds are those of what succeeded."""

    pulls: Mapping[tuple[str, str], int] = field(default_factory=dict)  # host, result
    pull_seconds: Mapping[str, float] = field(default_factory=dict)  # host
    transfer_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)  # direction, host
    transfer_seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)  # direction, host
    builds: Mapping[str, int] = field(default_factory=dict)  # result
    build_seconds: float = 0.0
    build_steps: Mapping[bool, int] = field(default_factory=dict)  # by whether they were cached
    collected: int = 0
    collected_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the agent's start; for metrics. Keys are label values in the order of the comment."""

    steps: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)  # kind, verb, reason, result
    step_seconds: Mapping[tuple[str, str], float] = field(default_factory=dict)  # kind, verb
    rounds: Mapping[str, int] = field(
        default_factory=dict
    )  # outcome: converged | progressing | blocked | error
    round_seconds: float = 0.0
    last_round_seconds: float = 0.0
    drift: Mapping[str, int] = field(default_factory=dict)  # defect kind -> times a repair was begun for it
    revisions: Mapping[tuple[str, str], int] = field(
        default_factory=dict
    )  # source, result: accepted | refused
    images: ImageCounters = ImageCounters()
    #: volume, what: backup | drill
    backup_failures: Mapping[tuple[str, str], int] = field(default_factory=dict)
    repairs: Mapping[str, int] = field(default_factory=dict)  # defect kind -> times it was repaired
    looks: int = 0  # at networks alone
    look_seconds: float = 0.0
    #: source, what: updated | rolled-back | paused | failed | held
    rollouts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    webhooks: Mapping[str, int] = field(default_factory=dict)  # result: sent | failed | dropped


@dataclass(frozen=True, slots=True)
class View:
    at: float = 0.0
    started_at: float = 0.0
    pid: int = 0
    version: str = ""
    node: str = ""
    state: str = "starting"  # starting | converged | progressing | blocked | stopping
    sources: tuple[SourceView, ...] = ()
    observed: Observed = field(default_factory=Observed)
    observed_at: float = 0.0
    plan: tuple[StepView, ...] = ()  # not yet started
    in_flight: tuple[StepView, ...] = ()
    blocked: tuple[BlockedView, ...] = ()
    orphans: tuple[OrphanView, ...] = ()
    backups: tuple[BackupView, ...] = ()
    jobs: tuple[JobView, ...] = ()
    counters: Counters = Counters()
    samples: tuple[Sample, ...] = ()
    sampled_at: float = 0.0
    error: str = ""  # why the last round failed as a whole (observe failed)


class Provider(Protocol):
    """What the HTTP API and metrics are given."""

    @property
    def view(self) -> View: ...

    def scraped(self) -> None:
        """Somebody reads samples: they are taken every few seconds for a while from now on."""
        ...
