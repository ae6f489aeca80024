from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from runtime.shim.supervise import (
    FINAL,
    HEALTHY,
    KINDS,
    LIVENESS,
    READINESS,
    STARTUP,
    TRANSITIONS,
    End,
    HealthMemory,
    HealthPolicy,
    InvalidTransition,
    Leave,
    RestartMemory,
    RestartPolicy,
    advance,
    after_end,
    after_probe,
    begin_health,
    health_of,
    is_ready,
    on_unhealthy,
    policy_of,
)

times = st.floats(0, 1e6)
policies = st.builds(
    RestartPolicy,
    policy=st.sampled_from(["no", "always", "on-failure", "unless-stopped"]),
    max_retries=st.integers(0, 10),
    initial=st.floats(0.001, 10),
    max=st.floats(0.001, 600),
    reset_after=st.floats(0.1, 100),
)
ends = st.builds(End, exit_code=st.integers(0, 255), well_for=st.floats(0, 200), unhealthy=st.booleans())
health = st.builds(
    HealthPolicy,
    interval=st.floats(0.1, 100),
    retries=st.integers(1, 5),
    start_period=st.floats(0, 100),
    start_interval=st.floats(0.1, 50),
)


@given(policies, st.lists(ends, max_size=200))
def test_delays_stay_within_bounds_and_never_shrink_within_a_streak(
    policy: RestartPolicy, history: list[End]
) -> None:
    memory, last = RestartMemory(), 0.0
    for count, end in enumerate(history):
        decision = after_end(policy, memory, end)
        if isinstance(decision, Leave):
            assert policy.policy in ("no", "on-failure")
            return
        assert 0 <= decision.delay <= policy.max
        if end.well_for >= policy.reset_after or count == 0:
            assert decision.delay == 0
        else:
            assert decision.delay >= last
        memory, last = decision.memory, decision.delay
        assert memory.attempts == count + 1


@given(policies, st.integers(1, 300))
def test_a_crash_loop_settles_at_the_maximum(policy: RestartPolicy, length: int) -> None:
    memory, total = RestartMemory(), 0.0
    for _ in range(length):
        decision = after_end(policy, memory, End(1))
        if isinstance(decision, Leave):
            return
        memory, total = decision.memory, total + decision.delay
    least = min(policy.initial, policy.max) * (length - 1)
    assert total >= least or math.isclose(total, least)  # a sum of floats


@given(health, st.lists(st.booleans(), max_size=60))
def test_probes_follow_one_another_and_unhealthy_means_failures_in_a_row(
    policy: HealthPolicy, results: list[bool]
) -> None:
    memory = begin_health(policy, 100.0)
    counted: list[bool] = []
    for success in results:
        now = memory.next_at
        before = memory
        memory = after_probe(policy, before, success=success, began=now, now=now)
        assert now < memory.next_at <= now + policy.interval + 1e-9
        counted.append(success)
        in_grace = now < 100.0 + max(policy.start_period, policy.interval)
        if memory.status == "unhealthy":
            assert not any(counted[-policy.retries :])
            assert not in_grace or any(counted)
        if success:
            assert memory.status == "healthy"
        if before.status == "healthy" and memory.status == "starting":
            raise AssertionError("a container does not go back to starting")


@given(st.lists(st.sampled_from(sorted({event for _, event in TRANSITIONS})), max_size=50))
def test_any_order_of_events_is_refused_or_stays_in_the_table(events: list[str]) -> None:
    phase = "created"
    for event in events:
        try:
            phase = advance(phase, event)
        except InvalidTransition:
            assert (phase, event) not in TRANSITIONS
        if phase in FINAL:
            assert not [key for key in TRANSITIONS if key[0] == phase]


kinds = st.sets(st.sampled_from(KINDS))


@given(kinds, health, st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), max_size=40))
def test_who_is_healthy_has_passed_its_startup_and_who_is_ready_its_readiness(
    asked: set[str], policy: HealthPolicy, results: list[tuple[str, bool]]
) -> None:
    """Any order of results: of kinds that are not asked for, or have not begun, there are none."""
    memories = {}
    passed: set[str] = set()
    now = 0.0
    for kind, success in results:
        began = kind == STARTUP or STARTUP not in asked or STARTUP in passed
        if kind not in asked or not began or (kind == STARTUP and kind in passed):
            continue
        memory = memories.get(kind) or begin_health(policy, now, at_once=kind != STARTUP)
        now = max(now, memory.next_at)
        memories[kind] = after_probe(policy, memory, success=success, began=now, now=now)
        passed |= {kind} if success else set()
    found, ready = health_of(asked, memories), is_ready(asked, memories)
    assert (found == "none") == (not asked & {STARTUP, LIVENESS})
    if found == "healthy":
        assert STARTUP not in asked or STARTUP in passed
        assert LIVENESS not in asked or LIVENESS in passed
    if STARTUP in asked and STARTUP not in passed:
        assert found in ("starting", "unhealthy")
        assert ready == (READINESS not in asked)
    if READINESS not in asked:
        assert ready
    elif ready:
        assert READINESS in passed


@given(st.sampled_from(KINDS), st.sampled_from(["restart", "stop", "none"]), policies)
def test_only_liveness_does_as_it_is_told_and_readiness_nothing(
    kind: str, on_failure: str, restart: RestartPolicy
) -> None:
    policy = policy_of(kind, {"on_failure": on_failure, "retries": 1})
    before = HealthMemory(HEALTHY, 0.0, 1.0, healthy_since=0.5)
    after = after_probe(policy, before, success=False, began=100.0, now=100.0)
    action = on_unhealthy(policy, restart, before, after)
    asked = {STARTUP: "restart", LIVENESS: on_failure, READINESS: "none"}[kind]
    if asked == "restart":
        assert action == ("" if restart.policy == "no" else "restart")
    else:
        assert action == ("stop" if asked == "stop" else "")
