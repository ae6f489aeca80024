"""Decisions: when a container is started anew, when it is healthy, which phase follows which. Pure tables;
the time is an argument (seconds of any monotonic clock).

Restart. The first restart happens at once, later ones after `initial` doubling up to `max`. A run that did
well for `reset_after` seconds ends the streak, so that the next restart happens at once again. "Did well" is
the time since exec, but for a run that ended because its probe failed it is the time since the probe first
succeeded: a container that never becomes healthy is restarted ever more seldom, however long each run lasts.
`on-failure:N` counts restarts since the shim was started, as Docker counts them since `docker start`.
A start that fails counts as a run of 0 s which ended with a failure. What ended with the pid namespace that
it has from another container is started anew as soon as that one is, and none of this counts it.

Health. Failures do not count while the container is starting: within `start_period`, and within the first
`interval`, in which Docker would not probe at all; probing there only lets a success be seen sooner. The
first success ends the starting. While starting, probes are `start_interval` apart (never more than
`interval`), then `interval`, measured from the end of one to the start of the next. `retries` failures in a
row are unhealthy.

Three kinds of probe go by these rules, each with its own times and count:

    startup     runs first and alone, until its first success; then the others begin, at once. When it fails,
                `on_failure` is restart, whatever was asked of liveness.
    liveness    the healthcheck: when it fails, its `on_failure` acts.
    readiness   never acts. Not ready until its first success, then ready until `retries` failures in a row,
                and so on back and forth.

    startup      liveness     health
    -            -            none
    -            L            L's status
    not passed   any          starting, or unhealthy where it failed and nothing was to be done about it
    passed       -            healthy
    passed       L            L's status

A container takes names and connections from others when it runs, is neither starting nor unhealthy, and its
readiness probe, if it has one, says so.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any, NamedTuple
else:
    from runtime.shim.tuples import NamedTuple

# ---------------------------------------------------------------- phases

CREATED, STARTING, RUNNING, BACKOFF = "created", "starting", "running", "backoff"
STOPPING, EXITED, STOPPED = "stopping", "exited", "stopped"

#: (phase, event) -> phase. Events: start (fork the program), execed, retry (it ended or could not be started,
#: and is to be started anew), leave (… and is to be left), stop (end it), stopped (it ended as requested).
TRANSITIONS: dict[tuple[str, str], str] = {
    (CREATED, "start"): STARTING,
    (CREATED, "stop"): STOPPING,
    (STARTING, "execed"): RUNNING,
    (STARTING, "retry"): BACKOFF,
    (STARTING, "leave"): EXITED,
    (STARTING, "stop"): STOPPING,
    (RUNNING, "retry"): BACKOFF,
    (RUNNING, "leave"): EXITED,
    (RUNNING, "stop"): STOPPING,
    (BACKOFF, "start"): STARTING,
    (BACKOFF, "leave"): EXITED,
    (BACKOFF, "stop"): STOPPING,
    (STOPPING, "stop"): STOPPING,
    (STOPPING, "execed"): STOPPING,
    (STOPPING, "retry"): BACKOFF,
    (STOPPING, "leave"): EXITED,
    (STOPPING, "stopped"): STOPPED,
}

FINAL = (EXITED, STOPPED)
#: `error` of a container that its probe has stopped, by on_failure: stop.
PROBE_STOPPED = "stopped because its probe failed"
#: Why nothing can be started in a pid namespace whose first process has ended.
OWNER_ENDED = "the container whose pid namespace it has has ended"


class InvalidTransition(Exception):
    """A programming error: the event cannot happen in this phase."""


def advance(phase: str, event: str) -> str:
    """The phase that follows. Raises InvalidTransition for what is not in the table."""
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise InvalidTransition(f"{event} in phase {phase}") from None


# ---------------------------------------------------------------- restart

NO, ALWAYS, ON_FAILURE, UNLESS_STOPPED = "no", "always", "on-failure", "unless-stopped"
POLICIES = (NO, ALWAYS, ON_FAILURE, UNLESS_STOPPED)


class RestartPolicy(NamedTuple):
    """`max_retries` 0: no limit (it matters for on-failure only). Times in seconds."""

    policy: str = ALWAYS
    max_retries: int = 0
    initial: float = 0.1
    max: float = 60.0
    reset_after: float = 10.0


class RestartMemory(NamedTuple):
    """`streak`: restarts since a run last did well; `attempts`: restarts since the shim was started."""

    streak: int = 0
    attempts: int = 0


class End(NamedTuple):
    """How a run ended. `well_for`: seconds for which it did well (see above)."""

    exit_code: int
    well_for: float = 0.0
    unhealthy: bool = False


class Restart(NamedTuple):
    """Start anew after `delay` seconds (0: at once)."""

    delay: float
    memory: RestartMemory


class Leave(NamedTuple):
    reason: str


def restart_policy(document: Mapping[str, Any]) -> RestartPolicy:
    """From the `restart` object of supervise.json; "on-failure:3" is understood too. ValueError when not."""
    name, _, count = str(document.get("policy") or ALWAYS).partition(":")
    if name not in POLICIES:
        raise ValueError(f"cannot read restart policy: {name!r} is none of {', '.join(POLICIES)}")
    default = RestartPolicy()
    return RestartPolicy(
        policy=name,
        max_retries=int(count or document.get("max_retries") or 0),
        initial=_seconds(document, "initial", default.initial),
        max=_seconds(document, "max", default.max),
        reset_after=_seconds(document, "reset_after", default.reset_after),
    )


#: The reason of a restart that is no fault of the container: the one whose pid namespace it has ended.
OWNER = "owner"
#: Why a container was started anew, for its record: it could not be started, its probe failed, the kernel
#: killed it for memory, it was killed by a signal, it failed, it ended well, or OWNER.
REASONS = ("start", "unhealthy", "oom", "signal", "failure", "success", OWNER)


def reason(end: End, *, started: bool, oom: bool) -> str:
    """The one of REASONS that names this end. 128 + signal is what a program that was killed exits with."""
    if not started:
        return "start"
    if end.unhealthy:
        return "unhealthy"
    if oom:
        return "oom"
    if end.exit_code > 128:
        return "signal"
    return "failure" if end.exit_code else "success"


def after_end(policy: RestartPolicy, memory: RestartMemory, end: End) -> Restart | Leave:
    """What follows the end of a run that nobody asked for."""
    failed = end.exit_code != 0 or end.unhealthy
    if policy.policy == NO:
        return Leave("restart policy is no")
    if policy.policy == ON_FAILURE and not failed:
        return Leave("it ended successfully")
    if policy.policy == ON_FAILURE and 0 < policy.max_retries <= memory.attempts:
        return Leave(f"it failed after {memory.attempts} of {policy.max_retries} restarts")
    streak = 0 if end.well_for >= policy.reset_after else memory.streak
    return Restart(backoff_delay(policy, streak), RestartMemory(streak + 1, memory.attempts + 1))


#: Restarts in a row without a run that did well which make a crash loop.
LOOP = 2


def is_crash_loop(phase: str, streak: int) -> bool:
    """Whether a container in that phase counts as crash-looping rather than running. `streak` is that of its
    record, which is 0 again once a run did well."""
    return streak >= LOOP and phase in (STARTING, RUNNING, BACKOFF)


def backoff_delay(policy: RestartPolicy, streak: int) -> float:
    """Seconds before the restart that follows `streak` others: 0, initial, 2 initial, 4 initial … max."""
    if streak <= 0:
        return 0.0
    if streak > 64:  # 2**64 times the smallest initial is beyond any max; a float would overflow at 1024
        return policy.max
    return min(policy.max, policy.initial * float(1 << (streak - 1)))


# ---------------------------------------------------------------- health

NONE, HEALTHY, UNHEALTHY = "none", "healthy", "unhealthy"
STARTUP, LIVENESS, READINESS = KINDS = "startup", "liveness", "readiness"


class HealthPolicy(NamedTuple):
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0
    on_failure: str = "restart"  # restart | stop | none


class HealthMemory(NamedTuple):
    """`failures` in a row that count; `healthy_since` is None until the first success of this run."""

    status: str
    started_at: float
    next_at: float
    failures: int = 0
    healthy_since: float | None = None


def health_policy(document: Mapping[str, Any]) -> HealthPolicy:
    default = HealthPolicy()
    on_failure = str(document.get("on_failure") or default.on_failure)
    if on_failure not in ("restart", "stop", "none"):
        raise ValueError(f"cannot read probe: on_failure {on_failure!r} is none of restart, stop, none")
    return HealthPolicy(
        interval=_seconds(document, "interval", default.interval) or default.interval,
        timeout=_seconds(document, "timeout", default.timeout) or default.timeout,
        retries=max(1, int(document.get("retries") or default.retries)),
        start_period=_seconds(document, "start_period", default.start_period),
        start_interval=_seconds(document, "start_interval", default.start_interval) or default.start_interval,
        on_failure=on_failure,
    )


def policy_of(kind: str, document: Mapping[str, Any]) -> HealthPolicy:
    """Of a probe of that kind. ValueError when it cannot be read."""
    policy = health_policy(document)
    if kind == LIVENESS:
        return policy
    return policy._replace(on_failure="restart" if kind == STARTUP else "none")


def begin_health(policy: HealthPolicy, now: float, *, at_once: bool = False) -> HealthMemory:
    """At exec of the program, or `at_once` when its startup probe has passed."""
    pause = 0.0 if at_once else min(policy.start_interval, policy.interval)
    return HealthMemory(STARTING, now, now + pause)


def health_of(asked: Collection[str], memories: Mapping[str, HealthMemory]) -> str:
    """The container's health: the table above. `asked`: kinds of probes that it has; `memories`: of those
    that have begun."""
    startup = memories.get(STARTUP)
    if STARTUP in asked and (startup is None or startup.status != HEALTHY):
        return UNHEALTHY if startup is not None and startup.status == UNHEALTHY else STARTING
    if LIVENESS not in asked:
        return HEALTHY if STARTUP in asked else NONE
    liveness = memories.get(LIVENESS)
    return liveness.status if liveness is not None else STARTING


def is_ready(asked: Collection[str], memories: Mapping[str, HealthMemory]) -> bool:
    """What the readiness probe says."""
    memory = memories.get(READINESS)
    return READINESS not in asked or (memory is not None and memory.status == HEALTHY)


def after_probe(
    policy: HealthPolicy, memory: HealthMemory, *, success: bool, began: float, now: float
) -> HealthMemory:
    """`began`: when the probe was started, which decides whether its failure counts."""
    if success:
        since = now if memory.healthy_since is None else memory.healthy_since
        return HealthMemory(HEALTHY, memory.started_at, now + policy.interval, 0, since)
    grace = memory.started_at + max(policy.start_period, policy.interval)
    if memory.healthy_since is None and memory.failures == 0 and began < grace:
        pause = min(policy.start_interval, policy.interval)
        if now < grace < now + pause:  # do not step over the first probe that counts
            pause = grace - now
        return memory._replace(next_at=now + pause)
    failures = memory.failures + 1
    status = UNHEALTHY if failures >= policy.retries else memory.status
    return memory._replace(status=status, failures=failures, next_at=now + policy.interval)


def on_unhealthy(
    health: HealthPolicy, restart: RestartPolicy, before: HealthMemory, after: HealthMemory
) -> str:
    """What to do about a probe's result: "restart", "stop" or "" (nothing). A container whose policy is `no`
    is not restarted; it stays, marked unhealthy."""
    if after.status != UNHEALTHY or before.status == UNHEALTHY:
        return ""
    if health.on_failure == "restart":
        return "" if restart.policy == NO else "restart"
    return "stop" if health.on_failure == "stop" else ""


def well_for(started_at: float, now: float, memory: HealthMemory | None, *, unhealthy: bool) -> float:
    """Seconds for which a run that ends at `now` did well, for End."""
    if not unhealthy:
        return now - started_at
    if memory is None or memory.healthy_since is None:
        return 0.0
    return now - memory.healthy_since


#: Seconds until what is not healthy is asked again whether it did well, at least.
ASKED_AGAIN = 0.1


def until_well(
    policy: RestartPolicy, started_at: float, now: float, health: str, memory: HealthMemory | None
) -> float:
    """Seconds until a run that goes on may have done well for long enough, however it ends then: also because
    its probe fails. 0: it has. `memory` is that of liveness."""
    if health not in (NONE, HEALTHY):
        return max(ASKED_AGAIN, policy.reset_after)
    did = well_for(started_at, now, memory, unhealthy=memory is not None)
    return max(0.0, policy.reset_after - did)


def _seconds(document: Mapping[str, Any], key: str, default: float) -> float:
    value = document.get(key)
    return default if value is None else max(0.0, float(value))
