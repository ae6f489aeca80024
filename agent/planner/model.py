"""Values: what the planner takes and gives: steps, blocked things, the plan, and what is remembered.

Everything here is frozen and compares by content. `str()` of a Plan is stable text: golden files, `stead
plan`, `stead explain` and the journal all show the same lines. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

from runtime.interface import Observed
from specs.desired import Desired, DesiredContainer, DesiredImage, DesiredNetwork, DesiredVolume, Place

Kind = Literal["image", "network", "volume", "container", "firewall", "leftovers"]


class Subject(NamedTuple):
    """What a step is about. At most one step is in flight per subject."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


FIREWALL = Subject("firewall", "")
LEFTOVERS = Subject("leftovers", "")


# ---------------------------------------------------------------- actions: a closed union


@dataclass(frozen=True, slots=True)
class PullImage:
    image: DesiredImage
    sources: tuple[str, ...]  # every source that wants it: all of them count it as pulled


@dataclass(frozen=True, slots=True)
class CreateNetwork:
    network: DesiredNetwork


@dataclass(frozen=True, slots=True)
class RepairNetwork:
    name: str


@dataclass(frozen=True, slots=True)
class RemoveNetwork:
    name: str


@dataclass(frozen=True, slots=True)
class CreateVolume:
    volume: DesiredVolume


@dataclass(frozen=True, slots=True)
class RemoveVolume:
    name: str


@dataclass(frozen=True, slots=True)
class CreateContainer:
    container: DesiredContainer
    image: DesiredImage


@dataclass(frozen=True, slots=True)
class StartContainer:
    name: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    name: str


@dataclass(frozen=True, slots=True)
class AdjustContainer:
    container: DesiredContainer
    image: DesiredImage


@dataclass(frozen=True, slots=True)
class RepairContainer:
    name: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    name: str


@dataclass(frozen=True, slots=True)
class RepairFirewall:
    pass


@dataclass(frozen=True, slots=True)
class Sweep:
    pass


Action = (
    PullImage
    | CreateNetwork
    | RepairNetwork
    | RemoveNetwork
    | CreateVolume
    | RemoveVolume
    | CreateContainer
    | StartContainer
    | StopContainer
    | AdjustContainer
    | RepairContainer
    | RemoveContainer
    | RepairFirewall
    | Sweep
)

#: action -> the verb in step ids, the journal and metrics
VERBS: Mapping[type[Action], str] = MappingProxyType(
    {
        PullImage: "pull",
        CreateNetwork: "create",
        RepairNetwork: "repair",
        RemoveNetwork: "remove",
        CreateVolume: "create",
        RemoveVolume: "remove",
        CreateContainer: "create",
        StartContainer: "start",
        StopContainer: "stop",
        AdjustContainer: "adjust",
        RepairContainer: "repair",
        RemoveContainer: "remove",
        RepairFirewall: "repair",
        Sweep: "sweep",
    }
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a step is needed.

    `reason` is one of a small stable set (a metric label): undeclared, missing, changed, image, network,
    phase, drift, revision, leftovers. `text` is for people; `place` is the file and line that says so.
    """

    reason: str
    text: str
    place: Place | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.place})" if self.place else self.text


@dataclass(frozen=True, slots=True)
class Step:
    """One action, why it is needed, and the ids of the steps that must succeed before it.

    `basis` tells two attempts at the same id apart: a failure is held against a step only while its basis is
    the same, so that a corrected spec is tried at once.
    """

    subject: Subject
    action: Action
    cause: Cause
    after: frozenset[str] = frozenset()
    source: str = ""
    basis: str = ""

    @property
    def verb(self) -> str:
        return VERBS[type(self.action)]

    @property
    def id(self) -> str:
        return f"{self.verb} {self.subject}"

    def __str__(self) -> str:
        line = f"{self.id}: {self.cause}"
        return f"{line} [after {', '.join(sorted(self.after))}]" if self.after else line


@dataclass(frozen=True, slots=True)
class Blocked:
    """A thing that is not converged and for which nothing may be done now.

    `code` is a fault code, or one of: suspended, waits, name-taken, dependency-failed, pull-never, no-effect.
    """

    subject: Subject
    reason: str
    until: float | None = None
    code: str = "waits"
    source: str = ""
    attempts: int = 0

    def __str__(self) -> str:
        return f"! {self.subject}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps` in a stable order in which they could be run one by one."""

    steps: tuple[Step, ...] = ()
    blocked: tuple[Blocked, ...] = ()

    @property
    def ready(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if not step.after)

    @property
    def wake_at(self) -> float | None:
        """When something blocked may be tried again."""
        return min((b.until for b in self.blocked if b.until is not None), default=None)

    @property
    def empty(self) -> bool:
        return not self.steps and not self.blocked

    def __str__(self) -> str:
        return "\n".join([*map(str, self.steps), *map(str, self.blocked)])


# ---------------------------------------------------------------- memory


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempts at one step id: `count` in a row with the same basis.

    `code` is "" when the last one succeeded: a success that must be repeated again and again is paced, too.
    """

    subject: Subject
    basis: str
    count: int
    at: float
    until: float  # not before
    code: str = ""
    reason: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is remembered between plans. Small and safe to lose: losing it costs a retry or a pull."""

    attempts: Mapping[str, Attempt] = field(default_factory=dict)  # by step id
    pulled: frozenset[tuple[str, str]] = frozenset()  # (source, reference) with pull = always, this revision
    depends: Mapping[str, frozenset[str]] = field(
        default_factory=dict
    )  # last known, for the order of removal


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and how long to wait after a failure. Durations are seconds."""

    parallel: int = 8
    pulls: int = 3
    transient_initial: float = 1.0
    transient_max: float = 60.0
    failure_initial: float = 5.0
    failure_max: float = 300.0


InFlight = Mapping[Subject, Step]


@dataclass(frozen=True, slots=True)
class World:
    """Everything a plan is made from.

    `desired` is by source; a source that is not in it is not touched. `drop_volumes` names the sources whose
    undeclared volumes go, too (`stead down --volumes`).
    """

    desired: Mapping[str, Desired]
    observed: Observed
    memory: Memory = field(default_factory=Memory)
    in_flight: InFlight = field(default_factory=dict)
    now: float = 0.0
    limits: Limits = field(default_factory=Limits)
    drop_volumes: frozenset[str] = frozenset()
