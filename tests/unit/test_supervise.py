from __future__ import annotations

import pytest

from runtime.shim.supervise import (
    REASONS,
    TRANSITIONS,
    End,
    HealthMemory,
    HealthPolicy,
    InvalidTransition,
    Leave,
    Restart,
    RestartMemory,
    RestartPolicy,
    advance,
    after_end,
    after_probe,
    begin_health,
    health_policy,
    is_crash_loop,
    on_unhealthy,
    reason,
    restart_policy,
    until_well,
    well_for,
)

FAILED = End(exit_code=1)


def delays(policy: RestartPolicy, ends: list[End]) -> list[float | str]:
    memory, result = RestartMemory(), []
    for end in ends:
        decision = after_end(policy, memory, end)
        if isinstance(decision, Leave):
            return [*result, decision.reason]
        memory = decision.memory
        result.append(decision.delay)
    return result


def test_the_first_restart_is_at_once_and_later_ones_double_up_to_the_maximum() -> None:
    assert delays(RestartPolicy(), [FAILED] * 13) == [
        0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60,
    ]  # fmt: skip


def test_a_run_that_did_well_ends_the_streak() -> None:
    ends = [FAILED, FAILED, End(1, well_for=10.0), FAILED]
    assert delays(RestartPolicy(), ends) == [0, 0.1, 0, 0.1]


def test_a_run_that_was_too_short_does_not_end_the_streak() -> None:
    assert delays(RestartPolicy(), [FAILED, End(1, well_for=9.9)]) == [0, 0.1]


def test_always_restarts_after_success_too() -> None:
    assert delays(RestartPolicy("unless-stopped"), [End(0)]) == [0]
    assert delays(RestartPolicy("always"), [End(0)]) == [0]


def test_no_never_restarts() -> None:
    assert delays(RestartPolicy("no"), [FAILED]) == ["restart policy is no"]


def test_on_failure_leaves_a_success_alone() -> None:
    assert delays(RestartPolicy("on-failure"), [FAILED, End(0)]) == [0, "it ended successfully"]


def test_on_failure_counts_its_restarts() -> None:
    policy = RestartPolicy("on-failure", max_retries=2)
    assert delays(policy, [FAILED, FAILED, FAILED]) == [0, 0.1, "it failed after 2 of 2 restarts"]


def test_an_unhealthy_end_is_a_failure_whatever_its_exit_code() -> None:
    assert delays(RestartPolicy("on-failure"), [End(0, unhealthy=True)]) == [0]


def test_a_policy_is_read_from_either_spelling() -> None:
    assert restart_policy({"policy": "on-failure:3"}) == RestartPolicy("on-failure", 3)
    assert restart_policy({"policy": "on-failure", "max_retries": 3}) == RestartPolicy("on-failure", 3)
    assert restart_policy({}) == RestartPolicy()
    with pytest.raises(ValueError, match="sometimes"):
        restart_policy({"policy": "sometimes"})


# ---------------------------------------------------------------- phases


def test_what_is_not_in_the_table_raises() -> None:
    with pytest.raises(InvalidTransition, match="execed in phase backoff"):
        advance("backoff", "execed")


def test_final_phases_are_final() -> None:
    assert not [phase for phase, _ in TRANSITIONS if phase in ("exited", "stopped")]


def test_a_repeated_stop_is_harmless() -> None:
    assert advance(advance("running", "stop"), "stop") == "stopping"


def test_a_stop_during_backoff_ends_at_once() -> None:
    assert advance(advance("backoff", "stop"), "stopped") == "stopped"


# ---------------------------------------------------------------- health

POLICY = HealthPolicy(interval=10, timeout=5, retries=3, start_period=30, start_interval=2)


def fail(policy: HealthPolicy, memory: HealthMemory, at: float) -> HealthMemory:
    return after_probe(policy, memory, success=False, began=at, now=at)


def succeed(policy: HealthPolicy, memory: HealthMemory, at: float) -> HealthMemory:
    return after_probe(policy, memory, success=True, began=at, now=at)


def test_failures_within_the_start_period_do_not_count() -> None:
    memory = begin_health(POLICY, 0)
    while memory.next_at < 30:
        memory = fail(POLICY, memory, memory.next_at)
        assert (memory.status, memory.failures) == ("starting", 0)
    times = []
    for _ in range(3):
        times.append(memory.next_at)
        memory = fail(POLICY, memory, memory.next_at)
    assert times == [30, 40, 50]
    assert memory.status == "unhealthy"


def test_the_first_success_ends_the_start_period() -> None:
    memory = succeed(POLICY, begin_health(POLICY, 0), 2)
    assert (memory.status, memory.next_at) == ("healthy", 12)
    memory = fail(POLICY, memory, 12)
    assert (memory.status, memory.failures) == ("healthy", 1)


def test_without_a_start_period_a_failing_container_is_unhealthy_when_docker_says_so() -> None:
    policy = HealthPolicy(interval=30, retries=3, start_interval=5)
    memory = begin_health(policy, 0)
    while memory.status != "unhealthy":
        at = memory.next_at
        memory = fail(policy, memory, at)
    assert at == 90


def test_a_success_clears_the_failures() -> None:
    memory = succeed(POLICY, begin_health(POLICY, 0), 2)
    memory = fail(POLICY, fail(POLICY, memory, 12), 22)
    assert succeed(POLICY, memory, 32).failures == 0


def test_an_unhealthy_container_can_become_healthy_again() -> None:
    memory = HealthMemory("unhealthy", 0, 60, failures=3)
    assert succeed(POLICY, memory, 60).status == "healthy"


def test_the_action_is_taken_once_when_it_becomes_unhealthy() -> None:
    before = HealthMemory("healthy", 0, 60, failures=2, healthy_since=1)
    after = fail(POLICY, before, 60)
    always = RestartPolicy()
    assert on_unhealthy(POLICY, always, before, after) == "restart"
    assert on_unhealthy(POLICY, always, after, fail(POLICY, after, 70)) == ""
    assert on_unhealthy(HealthPolicy(on_failure="stop"), always, before, after) == "stop"
    assert on_unhealthy(HealthPolicy(on_failure="none"), always, before, after) == ""


def test_a_policy_of_no_restart_holds_for_failed_probes_too() -> None:
    before = HealthMemory("healthy", 0, 60, failures=2, healthy_since=1)
    assert on_unhealthy(POLICY, RestartPolicy("no"), before, fail(POLICY, before, 60)) == ""


def test_a_container_that_never_was_healthy_did_not_do_well_however_long_it_ran() -> None:
    never = begin_health(POLICY, 0)
    assert well_for(0, 500, never, unhealthy=True) == 0
    assert well_for(0, 500, succeed(POLICY, never, 400), unhealthy=True) == 100
    assert well_for(0, 500, never, unhealthy=False) == 500


def test_a_run_has_done_well_when_no_end_of_it_would_go_on_with_the_streak() -> None:
    policy = RestartPolicy(reset_after=10.0)
    assert until_well(policy, 0.0, 4.0, "none", None) == 6.0
    assert until_well(policy, 0.0, 11.0, "healthy", None) == 0.0  # a startup probe alone
    begun = begin_health(HealthPolicy(), 0.0)
    assert until_well(policy, 0.0, 60.0, "starting", begun) == 10.0
    healthy = succeed(HealthPolicy(), begun, 58.0)
    assert until_well(policy, 0.0, 60.0, "healthy", healthy) == 8.0
    assert until_well(policy, 0.0, 68.0, "healthy", healthy) == 0.0
    assert until_well(policy._replace(reset_after=0.0), 0.0, 1.0, "unhealthy", begun) > 0.0


def test_a_health_policy_is_read_with_defaults() -> None:
    assert health_policy({}) == HealthPolicy()
    assert health_policy({"interval": 1, "retries": 0}).retries == 3
    with pytest.raises(ValueError, match="on_failure"):
        health_policy({"on_failure": "pray"})


def test_a_decision_to_restart_prints() -> None:
    decision = after_end(RestartPolicy(), RestartMemory(), FAILED)
    assert isinstance(decision, Restart)
    assert str(decision) == "Restart(delay=0.0, memory=RestartMemory(streak=1, attempts=1))"


@pytest.mark.parametrize(
    ("end", "started", "oom", "why"),
    [
        (End(127), False, False, "start"),
        (End(0, unhealthy=True), True, False, "unhealthy"),
        (End(137, unhealthy=True), True, True, "unhealthy"),
        (End(137), True, True, "oom"),
        (End(143), True, False, "signal"),
        (End(1), True, False, "failure"),
        (End(0), True, False, "success"),
    ],
)
def test_every_end_has_one_reason(end: End, started: bool, oom: bool, why: str) -> None:
    assert reason(end, started=started, oom=oom) == why
    assert why in REASONS


def test_a_crash_loop_is_restarts_in_a_row_whatever_goes_on_between_them() -> None:
    assert [is_crash_loop("running", streak) for streak in range(4)] == [False, False, True, True]
    phases = ("created", "starting", "running", "backoff", "stopping", "exited", "stopped")
    assert [phase for phase in phases if is_crash_loop(phase, 2)] == ["starting", "running", "backoff"]
