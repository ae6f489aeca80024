"""Values: what the planner takes and gives: steps, blocked things, the plan, and what is remembered.

Everything here is frozen and compares by content. `str()` of a Plan is stable text: golden files, `stead
plan`, `stead explain` and the journal all show the same lines. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from types import MappingProxyType
from typing import Literal, NamedTuple

from agent.planner.runs import Due, Job
from agent.planner.updates import NONE, Orders, Version, Watch
from runtime.backups.request import BackupResult, DrillResult
from runtime.images.garbage import Limits as CollectLimits
from runtime.images.garbage import Removed
from runtime.observations import ImageSize, Observed
from specs.desired import (
    Desired,
    DesiredBackup,
    DesiredContainer,
    DesiredImage,
    DesiredNetwork,
    DesiredVolume,
    Place,
)

Kind = Literal[
    "image", "network", "volume", "container", "rollout", "firewall", "leftovers", "store", "backup"
]


class Subject(NamedTuple):
    """What a step is about. At most one step is in flight per subject."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


FIREWALL = Subject("firewall", "")
LEFTOVERS = Subject("leftovers", "")
STORE = Subject("store", "")

#: Code of what keeps an image from being renewed while the one in the store goes on: a note, not a failure.
KEPT = "image-kept"
#: Code of what keeps a container stopped that a person stopped: a note, not a failure.
HELD = "held"
#: Code of what keeps a job from being replaced now: its run.
JOB_RUNS = "job-running"
#: Codes of what is told and keeps no source from counting as converged.
NOTES = frozenset({"suspended", "paused", "pinned", HELD, KEPT, JOB_RUNS})


# ---------------------------------------------------------------- actions: a closed union


@dataclass(frozen=True, slots=True)
class PullImage:
    image: DesiredImage
    sources: tuple[str, ...]  # every source that wants it: all of them count it as pulled


@dataclass(frozen=True, slots=True)
class LookUpImage:
    """Ask the registry, once, which digest the tag stands for."""

    image: DesiredImage
    sources: tuple[str, ...]  # whose `always` this answers


@dataclass(frozen=True, slots=True)
class MeasureImage:
    image: DesiredImage


@dataclass(frozen=True, slots=True)
class RepairImage:
    image: DesiredImage


@dataclass(frozen=True, slots=True)
class BuildImage:
    image: DesiredImage
    key: str  # of what it is built from


@dataclass(frozen=True, slots=True)
class CollectImages:
    keep: frozenset[str]  # image ids
    limits: CollectLimits


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
class OrphanVolume:
    """Write down that nothing declares it any more, and how large it is."""

    name: str


@dataclass(frozen=True, slots=True)
class BackupVolume:
    volume: str
    backup: DesiredBackup
    revision: str  # of the source


@dataclass(frozen=True, slots=True)
class DrillBackup:
    volume: str
    backup: DesiredBackup


@dataclass(frozen=True, slots=True)
class CreateContainer:
    container: DesiredContainer
    image: DesiredImage


@dataclass(frozen=True, slots=True)
class StartContainer:
    name: str


@dataclass(frozen=True, slots=True)
class RunJob:
    """A start, for one time of its schedule."""

    name: str
    due: Due


@dataclass(frozen=True, slots=True)
class StopContainer:
    name: str


@dataclass(frozen=True, slots=True)
class AdjustContainer:
    container: DesiredContainer
    image: DesiredImage


@dataclass(frozen=True, slots=True)
class RepairContainer:
    """`network`: nothing but its links, addresses and routes, or what it is told of the network."""

    name: str
    network: bool = False


@dataclass(frozen=True, slots=True)
class RetireContainer:
    """Its name goes to the one that replaces it, and it runs on until that one is ready."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    name: str
    replaced: bool = False  # another one of its name follows
    volumes: bool = False  # its anonymous volumes go with it


@dataclass(frozen=True, slots=True)
class RepairFirewall:
    pass


@dataclass(frozen=True, slots=True)
class Sweep:
    pass


Action = (
    PullImage
    | LookUpImage
    | MeasureImage
    | RepairImage
    | BuildImage
    | CollectImages
    | CreateNetwork
    | RepairNetwork
    | RemoveNetwork
    | CreateVolume
    | RemoveVolume
    | OrphanVolume
    | BackupVolume
    | DrillBackup
    | CreateContainer
    | StartContainer
    | RunJob
    | StopContainer
    | AdjustContainer
    | RepairContainer
    | RetireContainer
    | RemoveContainer
    | RepairFirewall
    | Sweep
)


# ---------------------------------------------------------------- what some of them find out


@dataclass(frozen=True, slots=True)
class Looked:
    digest: str


@dataclass(frozen=True, slots=True)
class Sized:
    size: ImageSize


@dataclass(frozen=True, slots=True)
class Pulled:
    image: str  # id


@dataclass(frozen=True, slots=True)
class BuiltImage:
    key: str
    image: str  # id
    steps: int
    cached: int  # of the steps


@dataclass(frozen=True, slots=True)
class Collected:
    removed: tuple[Removed, ...]


@dataclass(frozen=True, slots=True)
class BackedUp:
    made: BackupResult


@dataclass(frozen=True, slots=True)
class Drilled:
    done: DrillResult


Result = BackedUp | Drilled | Looked | Sized | Pulled | BuiltImage | Collected | None

#: action -> the verb in step ids, the journal and metrics
VERBS: Mapping[type[Action], str] = MappingProxyType(
    {
        PullImage: "pull",
        LookUpImage: "look-up",
        MeasureImage: "measure",
        RepairImage: "repair",
        BuildImage: "build",
        CollectImages: "collect",
        CreateNetwork: "create",
        RepairNetwork: "repair",
        RemoveNetwork: "remove",
        CreateVolume: "create",
        RemoveVolume: "remove",
        OrphanVolume: "orphan",
        BackupVolume: "run",
        DrillBackup: "drill",
        CreateContainer: "create",
        StartContainer: "start",
        RunJob: "start",
        StopContainer: "stop",
        AdjustContainer: "adjust",
        RepairContainer: "repair",
        RetireContainer: "retire",
        RemoveContainer: "remove",
        RepairFirewall: "repair",
        Sweep: "sweep",
    }
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a step is needed.

    `reason` is one of a small stable set (a metric label): undeclared, missing, changed, image, network,
    phase, drift, replaced, rollback, readiness, revision, interval, space, leftovers, schedule, dependency.
    `text` is for people; `place` is the file and line that says so.
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

    `code` is a fault code, or one of: suspended, paused, held, waits, name-taken, dependency-failed,
    pull-never, no-effect, image-kept, data-loss, job-running; of a rollout: rolling, paused-rollout,
    rolled-back, rollout-failed, pinned.
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
    next_look: float | None = None  # when something is due that nothing else would wake us for

    @property
    def ready(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if not step.after)

    @property
    def wake_at(self) -> float | None:
        """When something blocked may be tried again, or a tag is to be looked up again."""
        times = [b.until for b in self.blocked if b.until is not None]
        return min([*times, *([] if self.next_look is None else [self.next_look])], default=None)

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
class Look:
    """The last time that a registry was asked for a tag. `digest` is what it said; empty: it was pulled."""

    at: float
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Built:
    """What the image of a name was last built from, and what came of it."""

    key: str
    image: str  # id


@dataclass(frozen=True, slots=True)
class Measured:
    """`basis` is that of the pull that was measured."""

    basis: str
    size: ImageSize


@dataclass(frozen=True, slots=True)
class Backup:
    """The last good backup of a volume, and its last good drill. Times are seconds since the epoch; 0.0:
    there was none. `bytes` is the size of the file."""

    at: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    path: str = ""
    drilled_at: float = 0.0
    drill_seconds: float = 0.0
    first_at: float = 0.0  # of the first one that is remembered: drills count from it


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is remembered between plans. Small and safe to lose: losing it costs a retry or a pull."""

    attempts: Mapping[str, Attempt] = field(default_factory=dict)  # by step id
    pulled: frozenset[tuple[str, str]] = frozenset()  # (source, reference) with pull = always, this revision
    depends: Mapping[str, frozenset[str]] = field(
        default_factory=dict
    )  # last known, for the order of removal
    looks: Mapping[str, Look] = field(default_factory=dict)  # by canonical reference
    built: Mapping[str, Built] = field(default_factory=dict)  # by canonical reference
    measured: Mapping[str, Measured] = field(default_factory=dict)  # by canonical reference
    collected: float | None = None  # when images were last collected
    backups: Mapping[str, Backup] = field(default_factory=dict)  # by volume
    jobs: Mapping[str, Job] = field(default_factory=dict)  # by container
    versions: Mapping[str, tuple[Version, ...]] = field(default_factory=dict)  # by service, oldest first
    watched: Mapping[str, Watch] = field(default_factory=dict)  # by container


NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and how long to wait after a failure. Durations are seconds."""

    parallel: int = 8
    pulls: int = 3
    builds: int = 1
    keep_free: int = 64 << 20  # bytes of the disk that no pull may use
    transient_initial: float = 1.0
    transient_max: float = 60.0
    failure_initial: float = 5.0
    failure_max: float = 300.0
    backup_initial: float = 60.0
    backup_max: float = 3600.0
    prune: float = NEVER  # after which a volume that nothing declares goes, unless it says otherwise


@dataclass(frozen=True, slots=True)
class Collecting:
    """When images that nobody needs are removed. Seconds; `limits` has the marks of disk use."""

    interval: float
    limits: CollectLimits


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a build would be made from now. `changed` says what differs from the last time, where that is
    known; with a `code` there is no key, and `reason` says why."""

    key: str = ""
    changed: str = ""
    code: str = ""
    reason: str = ""


InFlight = Mapping[Subject, Step]


@dataclass(frozen=True, slots=True)
class World:
    """Everything a plan is made from.

    `desired` is by source; a source that is not in it is not touched. `drop_volumes` names the sources whose
    undeclared volumes go, too (`stead down --volumes`). `previous` are the revisions before those in force:
    their images are kept, so that a rollback needs no network. `inputs` are those of every image that is
    built, by canonical reference. Without `collecting` no image is removed, without `backing_up` no backup is
    made, without `by_hand` nothing is done about what no source declares. `clock` is the time in seconds
    since the epoch, `zone` where this machine's clock hangs; `revisions` are those in force, by source;
    `orders` are what people ordered by hand.
    """

    desired: Mapping[str, Desired]
    observed: Observed
    memory: Memory = field(default_factory=Memory)
    in_flight: InFlight = field(default_factory=dict)
    now: float = 0.0
    limits: Limits = field(default_factory=Limits)
    drop_volumes: frozenset[str] = frozenset()
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    previous: Mapping[str, Desired] = field(default_factory=dict)
    collecting: Collecting | None = None
    backing_up: bool = False
    clock: float = 0.0
    zone: tzinfo = UTC
    revisions: Mapping[str, str] = field(default_factory=dict)
    by_hand: bool = False
    orders: Orders = NONE
