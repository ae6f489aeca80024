"""The states of a container: what each verb does from each of them, and what stays of it."""

from __future__ import annotations

import re

import pytest

from tests.behaviour.engines import IMAGE, Engine, until

pytestmark = pytest.mark.root

#: Ends at once at SIGTERM, says what it does.
OBEYS = "trap 'echo term; exit 3' TERM; echo begun; while :; do sleep 0.05; done"


def _create(engine: Engine, name: str, script: str, *options: str) -> str:
    return engine.do("create", "--name", name, "--network", "none", *options, IMAGE, "sh", "-c", script)


def _run(engine: Engine, name: str, script: str, *options: str) -> str:
    id = engine.do("run", "-d", "--name", name, "--network", "none", *options, IMAGE, "sh", "-c", script)
    if "begun" in script:
        until(lambda: "begun" in engine.do("logs", name))
    return id


def test_a_created_container_is_listed_with_a_and_does_not_run(engine: Engine, name: str) -> None:
    _create(engine, name, "exit 0")
    assert engine.status(name) == "created"
    assert name not in engine.names() and name in engine.names("-a")


def test_a_created_container_is_started_once_and_keeps_its_end(engine: Engine, name: str) -> None:
    _create(engine, name, "echo said; exit 4")
    assert engine.do("start", name) == name
    assert engine.do("wait", name) == "4"
    assert engine.status(name) == "exited" and engine.do("logs", name) == "said"
    assert engine.field(name, "{{.State.ExitCode}} {{.State.Running}}") == "4 false"


def test_start_with_a_shows_the_output_and_gives_the_exit_code(engine: Engine, name: str) -> None:
    _create(engine, name, "echo said; exit 4")
    said = engine.call("start", "-a", name)
    assert (said.code, said.out) == (4, "said\n")


def test_a_stopped_container_keeps_its_writable_layer(engine: Engine, name: str) -> None:
    _create(engine, name, "cat /kept 2>/dev/null; echo kept >> /kept")
    engine.do("start", "-a", name)
    assert engine.do("start", "-a", name) == "kept"
    assert engine.do("start", "-a", name) == "kept\nkept"


def test_a_tmpfs_is_empty_at_each_start(engine: Engine, name: str) -> None:
    _create(engine, name, "ls /t; touch /t/x", "--tmpfs", "/t")
    assert engine.do("start", "-a", name) == engine.do("start", "-a", name) == ""


@pytest.mark.alone
def test_stop_sends_sigterm_and_the_programs_exit_code_holds(engine: Engine, name: str) -> None:
    _run(engine, name, OBEYS)
    assert engine.do("stop", "-t", "15", name) == name
    assert engine.field(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"
    assert engine.do("logs", name).splitlines() == ["begun", "term"]
    assert engine.do("stop", name) == name  # again is no mistake
    assert engine.do("start", name) == name and engine.status(name) == "running"
    engine.fails("rm", name)
    engine.do("rm", "-f", name)
    engine.fails("inspect", name)


def test_a_program_that_does_not_obey_is_killed_after_the_time(engine: Engine, name: str) -> None:
    _run(engine, name, "trap '' TERM; echo begun; while :; do sleep 0.05; done", "--stop-timeout", "0")
    engine.do("stop", name)
    assert engine.field(name, "{{.State.ExitCode}}") == "137"


def test_another_stop_signal_is_sent_where_one_is_said(engine: Engine, name: str) -> None:
    _run(
        engine, name, "trap 'exit 5' USR1; echo begun; while :; do sleep 0.05; done", "--stop-signal", "USR1"
    )
    engine.do("stop", "-t", "15", name)
    assert engine.field(name, "{{.State.ExitCode}}") == "5"


def test_kill_sends_any_signal_by_name_and_by_number(engine: Engine, name: str) -> None:
    _run(engine, name, "trap 'echo hup' HUP; trap 'exit 6' USR2; echo begun; while :; do sleep 0.05; done")
    assert engine.do("kill", "-s", "HUP", name) == name
    until(lambda: "hup" in engine.do("logs", name))
    assert engine.status(name) == "running"
    engine.do("kill", "-s", "12", name)
    assert engine.do("wait", name) == "6"


def test_kill_ends_with_137_and_of_what_does_not_run_fails(engine: Engine, name: str) -> None:
    _run(engine, name, "sleep 1000")
    engine.do("kill", name)
    assert engine.do("wait", name) == "137"
    engine.fails("kill", name)
    engine.fails("kill", "-s", "NOSUCH", name)


def test_restart_gives_a_new_process_in_the_same_container(engine: Engine, name: str) -> None:
    id = _run(engine, name, "echo x >> /runs; cat /runs; echo begun; exec sleep 1000")
    before = engine.field(name, "{{.State.Pid}}")
    assert engine.do("restart", "-t", "0", name) == name
    after, same = engine.field(name, "{{.State.Pid}} {{.Id}}").split()
    assert after != before and same == id
    until(lambda: engine.do("logs", name).splitlines() == ["x", "begun", "x", "x", "begun"])


def test_restart_starts_what_does_not_run(engine: Engine, name: str) -> None:
    _create(engine, name, "exec sleep 1000")
    engine.do("restart", "-t", "0", name)
    assert engine.status(name) == "running"


def test_starting_what_runs_is_no_mistake(engine: Engine, name: str) -> None:
    _run(engine, name, "exec sleep 1000")
    pid = engine.field(name, "{{.State.Pid}}")
    assert engine.call("start", name).code == 0
    assert engine.field(name, "{{.State.Pid}}") == pid


def test_a_program_that_is_not_there_is_told_at_the_start_and_the_container_is_kept(
    engine: Engine, name: str
) -> None:
    engine.do("create", "--name", name, "--network", "none", IMAGE, "not-there")
    engine.fails("start", name)
    assert name in engine.names("-a") and name not in engine.names()


def test_pause_and_unpause_change_the_state_and_nothing_else(engine: Engine, name: str) -> None:
    _run(engine, name, "exec sleep 1000")
    pid = engine.field(name, "{{.State.Pid}}")
    assert engine.do("pause", name) == name
    assert engine.field(name, "{{.State.Status}} {{.State.Paused}}") == "paused true"
    engine.fails("pause", name)
    engine.fails("exec", name, "true")
    assert name in engine.names("-a")
    assert engine.do("unpause", name) == name
    assert engine.field(name, "{{.State.Status}} {{.State.Paused}} {{.State.Pid}}") == f"running false {pid}"
    engine.fails("unpause", name)


def test_what_does_not_run_cannot_be_paused_or_entered(engine: Engine, name: str) -> None:
    _create(engine, name, "true")
    engine.fails("pause", name)
    engine.fails("exec", name, "true")
    engine.fails("top", name)


def test_a_paused_container_can_be_removed_by_force(engine: Engine, name: str) -> None:
    _run(engine, name, "exec sleep 1000")
    engine.do("pause", name)
    engine.do("rm", "-f", name)
    assert name not in engine.names("-a")


def test_wait_waits_for_several_and_prints_a_line_for_each(engine: Engine, name: str) -> None:
    _create(engine, name, "exit 8")
    second = f"{name}-2"
    _create(engine, second, "exit 9")
    try:
        engine.do("start", name, second)
        assert engine.do("wait", name, second).split() == ["8", "9"]
        assert engine.do("wait", name) == "8"
    finally:
        engine.forget(second)


@pytest.mark.differs("it waits for none", "podman")
def test_wait_waits_for_those_that_are_there(engine: Engine, name: str) -> None:
    engine.do("run", "-d", "--name", name, "--network", "none", IMAGE, "sh", "-c", "sleep 1; exit 3")
    said = engine.call("wait", "not-there", name, "nor-there")
    assert (said.code, said.out) == (1, "3\n")
    assert "not-there" in said.errors and "nor-there" in said.errors


def test_rm_refuses_what_runs_and_takes_what_has_ended(engine: Engine, name: str) -> None:
    _run(engine, name, "exec sleep 1000")
    engine.fails("rm", name)
    assert engine.status(name) == "running"
    engine.do("kill", name)
    engine.do("wait", name)
    assert engine.do("rm", name) == name


@pytest.mark.differs("it takes all or none", "podman")
def test_rm_of_several_takes_those_that_are_there(engine: Engine, name: str) -> None:
    _create(engine, name, "true")
    engine.fails("rm", "not-there-at-all", name)
    assert name not in engine.names("-a")


@pytest.mark.parametrize(
    "verb", ["start", "stop", "kill", "restart", "wait", "logs", "top", "pause", "port", "rm", "diff"]
)
def test_a_verb_on_what_is_not_there_fails_and_names_it(engine: Engine, verb: str) -> None:
    assert "nobody-here" in engine.fails(verb, "nobody-here")


def test_rm_by_force_of_what_is_not_there_is_no_mistake(engine: Engine) -> None:
    assert engine.call("rm", "-f", "nobody-here").code == 0


def test_a_container_with_rm_is_gone_when_it_has_ended(engine: Engine, name: str) -> None:
    assert engine.call("run", "--rm", "--name", name, "--network", "none", IMAGE, "false").code == 1
    assert name not in engine.names("-a")


def test_an_id_is_64_digits_or_more_than_a_few_and_its_beginning_is_enough(engine: Engine, name: str) -> None:
    id = _create(engine, name, "true")
    assert re.fullmatch(r"[0-9a-f]{32,64}", id)
    assert engine.field(id[:8], "{{.Id}}") == engine.field(name, "{{.Id}}") == id


def test_a_renamed_container_is_found_by_its_new_name_and_the_old_one_is_free(
    engine: Engine, name: str
) -> None:
    _create(engine, f"{name}-old", "true")
    engine.do("rename", f"{name}-old", name)
    assert name in engine.names("-a")
    engine.fails("inspect", f"{name}-old")
    _create(engine, f"{name}-old", "true")
    engine.fails("rename", f"{name}-old", name)
    engine.forget(f"{name}-old")


@pytest.mark.alone
def test_a_container_that_failed_is_started_again_by_its_policy_so_often(engine: Engine, name: str) -> None:
    _run(engine, name, "echo x >> /runs; exit 3", "--restart", "on-failure:2")
    until(lambda: engine.field(name, "{{.RestartCount}} {{.State.Status}}") == "2 exited")
    assert engine.field(name, "{{.State.ExitCode}}") == "3"


def test_a_success_is_not_started_again_on_failure(engine: Engine, name: str) -> None:
    _run(engine, name, "exit 0", "--restart", "on-failure")
    assert engine.do("wait", name) == "0"
    assert engine.field(name, "{{.RestartCount}} {{.State.Status}}") == "0 exited"


def test_always_starts_again_after_a_success(engine: Engine, name: str) -> None:
    _run(
        engine,
        name,
        "echo x >> /runs; test $(wc -l < /runs) -ge 2 && exec sleep 1000; exit 0",
        "--restart",
        "always",
    )
    until(lambda: engine.field(name, "{{.RestartCount}} {{.State.Status}}") == "1 running")


def test_a_stopped_container_is_not_started_again_by_its_policy(engine: Engine, name: str) -> None:
    _run(engine, name, "exec sleep 1000", "--restart", "unless-stopped")
    engine.do("stop", "-t", "0", name)
    assert engine.field(name, "{{.RestartCount}} {{.State.Status}}") == "0 exited"


def test_a_policy_that_does_not_exist_is_refused(engine: Engine) -> None:
    engine.fails("create", "--restart", "sometimes", IMAGE, "true")


def test_rm_and_a_restart_policy_exclude_each_other(engine: Engine) -> None:
    engine.fails("run", "--rm", "--restart", "always", IMAGE, "true", code=125)


@pytest.mark.differs("podman 4 has no update --restart", "podman")
def test_what_goes_with_its_end_gets_no_restart_policy_later(engine: Engine, name: str) -> None:
    _run(engine, name, "exec sleep 1000", "--rm")
    engine.fails("update", "--restart", "always", name, code=1)
    assert engine.field(name, "{{.HostConfig.RestartPolicy.Name}}") == "no"


@pytest.mark.differs("podman warns and looks", "podman")
def test_attach_to_a_terminal_needs_one_here(engine: Engine, name: str) -> None:
    _run(engine, name, "exec sleep 1000", "-i", "-t")
    engine.fails("attach", name, code=1)


def test_a_process_that_loses_its_parent_goes_with_the_container(engine: Engine, name: str) -> None:
    _run(engine, name, "sh -c 'sleep 1000 &'; exit 0")
    assert engine.do("wait", name) == "0"


def test_the_times_of_a_run_are_kept(engine: Engine, name: str) -> None:
    _create(engine, name, "true")
    engine.do("start", "-a", name)
    began = engine.field(name, "{{.State.StartedAt}}")
    ended = engine.field(name, "{{.State.FinishedAt}}")
    assert began[:2] == ended[:2] == "20" and began[:19] <= ended[:19]


def test_stop_of_a_created_container_is_no_mistake(engine: Engine, name: str) -> None:
    _create(engine, name, "true")
    assert engine.call("stop", name).code == 0


def test_a_cidfile_has_the_id_and_is_never_overwritten(
    engine: Engine, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cid") / "id"
    id = _create(engine, name, "true", "--cidfile", str(path))
    assert path.read_text().strip() == id
    engine.fails("create", "--cidfile", str(path), IMAGE, "true")
