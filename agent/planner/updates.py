"""Values: what is remembered of the versions of a service, and what people ordered by hand.

A service is all replicas of one container of the specs; a version of it is what its containers are made
from: the two fingerprints and the image. Small, durable (agent.rollouts), and safe to lose: then there is
nothing to go back to until the version in force has proven itself again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from runtime.observations import HandStop, ObservedContainer
from specs.desired import DesiredContainer, DesiredImage, DesiredNetwork, DesiredVolume

#: versions of a service that are remembered, revisions of a version
VERSIONS, REVISIONS = 8, 8
#: the newest good versions of a service whose images stay
GOOD = 2


class Key(NamedTuple):
    """What tells versions apart. `image` is an id."""

    identity: str
    adjustable: str
    image: str

    @classmethod
    def of(cls, have: ObservedContainer) -> Key:
        return cls(have.identity, have.adjustable, have.image_id)


NOWHERE = Key("", "", "")


@dataclass(frozen=True, slots=True)
class Spec:
    """All that is needed to make the containers of a version again, without network and files."""

    containers: tuple[DesiredContainer, ...]
    image: DesiredImage
    networks: tuple[DesiredNetwork, ...] = ()
    volumes: tuple[DesiredVolume, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """`good`: all replicas did well once. `standing`: they did so since it was last put in force; then what
    happens to them is no fault of an update. `bad`: why it is not tried again. `at` is when it was last put
    in force, in seconds since the epoch; `number` counts upwards within the service, in the order in which
    they were declared last."""

    service: str
    source: str
    key: Key
    spec: Spec
    number: int
    revisions: tuple[str, ...] = ()  # newest last
    at: float = 0.0
    good: bool = False
    standing: bool = False
    bad: str = ""
    bad_at: float = 0.0

    @property
    def revision(self) -> str:
        return self.revisions[-1] if self.revisions else ""


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen of one container since it is as it is. `at` and `since` are times of the planner's clock:
    when this run of its program was first seen, and since when it is ready without a break (None: it is
    not). `restarts` and `unhealthy` are what they were at first."""

    id: str
    key: Key
    started_at: float
    at: float
    since: float | None
    restarts: int = 0
    unhealthy: int = 0


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people want to hear of at once. `kind`: rolled-back, paused, failed, updated, held.
    `name` is a service; of `held` a source. No value of a spec and no output of a program is in it."""

    kind: str
    name: str
    source: str
    revision: str = ""  # that it is about
    instead: str = ""  # that is in force
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What a person said. Times are seconds since the epoch; `until` None: until it is taken back."""

    at: float
    who: str
    reason: str = ""
    until: float | None = None

    def holds(self, clock: float) -> bool:
        return self.until is None or clock < self.until


@dataclass(frozen=True, slots=True)
class Pin(Order):
    """A version, of a service, or a revision, of a source, that stays in force whatever the specs say."""

    revision: str = ""
    key: Key = NOWHERE


@dataclass(frozen=True, slots=True)
class Orders:
    """`suspended`: of a container or service (`shop/web`), a project (`shop`) or a source (`source:NAME`)."""

    suspended: Mapping[str, Order] = field(default_factory=dict)
    pins: Mapping[str, Pin] = field(default_factory=dict)  # by service
    sources: Mapping[str, Pin] = field(default_factory=dict)  # by source
    approved: frozenset[tuple[str, str]] = frozenset()  # (source, revision)


NONE = Orders()


def suspension(orders: Orders, want: DesiredContainer | None, name: str, source: str, clock: float) -> str:
    """Why nothing is done to container `name`, as a person ordered; empty when nobody did."""
    for key, order in _suspensions(orders, want, name, source, clock):
        scope = "" if "/" in key else f" with all of {key.replace(':', ' ')}"
        return f"suspended by {order.who}{scope}: {order.reason or 'no reason given'}"
    return ""


def hand_stopped(name: str, stop: HandStop) -> str:
    """Stable: it is asserted in tests, and written to the journal when it changes."""
    at = datetime.fromtimestamp(stop.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    where = f" on {stop.terminal}" if stop.terminal else ""
    why = f": {stop.reason}" if stop.reason else ""
    return f"stopped by {stop.who or 'somebody'}{where} at {at}{why}; `stead start {name}` hands it back"


def suspended_until(
    orders: Orders, want: DesiredContainer | None, name: str, source: str, clock: float
) -> float | None:
    """When the last suspension of container `name` ends by itself; None: it has none, or one does not."""
    ends = [order.until for _, order in _suspensions(orders, want, name, source, clock)]
    return None if None in ends else max((end for end in ends if end is not None), default=None)


def _suspensions(
    orders: Orders, want: DesiredContainer | None, name: str, source: str, clock: float
) -> list[tuple[str, Order]]:
    """Those that hold, the narrowest first."""
    project = want.project if want is not None else name.partition("/")[0]
    service = want.service if want is not None else ""
    found = [(key, orders.suspended.get(key)) for key in (name, service, project, f"source:{source}") if key]
    return [(key, order) for key, order in found if order is not None and order.holds(clock)]


def images_of_rollbacks(versions: Mapping[str, tuple[Version, ...]], orders: Orders) -> frozenset[str]:
    """Ids of the images that a rollback may need: those of what is pinned, and the last good versions of
    every service."""
    found = {pin.key.image for pin in orders.pins.values()}
    for known in versions.values():
        good = sorted((version.at, version.key.image) for version in known if version.good)
        found.update(image for _, image in good[-GOOD:])
    return frozenset(found)
