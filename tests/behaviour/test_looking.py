"""What `inspect`, `ps`, `logs` and `diff` say: two containers for all questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.behaviour.engines import CONFIGURED, IMAGE, Engine, until

pytestmark = pytest.mark.root

FIELDS = {
    "Config.Image": IMAGE,
    "Config.User": "1000",
    "Config.WorkingDir": "/tmp",
    "Config.Tty": "false",
    "Config.OpenStdin": "false",
    "Config.Hostname": "box",
    "Config.StopTimeout": "7",
    "Config.Labels.tier": "front",
    "HostConfig.Memory": str(64 << 20),
    "HostConfig.PidsLimit": "50",
    "HostConfig.NanoCpus": "500000000",
    "HostConfig.CpusetCpus": "0",
    "HostConfig.ReadonlyRootfs": "true",
    "HostConfig.Privileged": "false",
    "HostConfig.AutoRemove": "false",
    "HostConfig.NetworkMode": "none",
    "HostConfig.RestartPolicy.Name": "on-failure",
    "HostConfig.RestartPolicy.MaximumRetryCount": "3",
    "HostConfig.ShmSize": str(2 << 20),
    "HostConfig.OomScoreAdj": "100",
    "State.Status": "running",
    "State.Running": "true",
    "State.Paused": "false",
    "State.Restarting": "false",
    "State.OOMKilled": "false",
    "State.Dead": "false",
    "State.ExitCode": "0",
    "RestartCount": "0",
    "Driver": "overlay",
    "Path": "sh",
}


@pytest.fixture(scope="module")
def seen(engine: Engine) -> Iterator[str]:
    """Runs, with many options."""
    name = "seen"
    words = ["--network", "none", "--hostname", "box", "-u", "1000", "-w", "/tmp", "--stop-timeout", "7"]
    words += ["-l", "tier=front", "-l", "empty=", "-m", "64m", "--pids-limit", "50", "--cpus", "0.5"]
    words += ["--cpuset-cpus", "0", "--read-only", "--restart", "on-failure:3", "--shm-size", "2m"]
    words += ["--oom-score-adj", "100", "-e", "SAID=1", "--tmpfs", "/tmp", "-v", "seen-data:/data:ro"]
    script = "echo one; echo two >&2; echo three; exec sleep 1000"
    engine.do("run", "-d", "--name", name, *words, IMAGE, "sh", "-c", script)
    until(lambda: "three" in engine.do("logs", name))
    yield name
    engine.forget(name)
    engine.call("volume", "rm", "seen-data")


@pytest.fixture(scope="module")
def fields(engine: Engine, seen: str) -> dict[str, str]:
    lines = engine.field(seen, "\n".join("{{.%s}}" % key for key in FIELDS)).splitlines()  # noqa: UP031
    return dict(zip(FIELDS, lines, strict=True))


@pytest.fixture(scope="module")
def document(engine: Engine, seen: str) -> dict[str, object]:
    (found,) = json.loads(engine.do("inspect", seen))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def ended(engine: Engine) -> Iterator[str]:
    """Has ended with 4; changed some files."""
    name = "looked-ended"
    script = (
        "echo x > /new; rm /seed/file; echo y >> /etc/passwd; mkdir /etc/dir; echo first; echo last; exit 4"
    )
    engine.call("run", "--name", name, "--network", "none", "-l", "tier=back", IMAGE, "sh", "-c", script)
    yield name
    engine.forget(name)


@pytest.mark.parametrize("key", FIELDS)
def test_inspect_has_the_field(fields: dict[str, str], key: str) -> None:
    found = fields[key].removeprefix("docker.io/").removeprefix("localhost/")
    assert found.startswith(FIELDS[key]) if key == "Driver" else found == FIELDS[key]


def test_inspect_without_a_template_is_a_list_of_one_document(document: dict[str, object], seen: str) -> None:
    assert str(document["Name"]).removeprefix("/") == seen


def test_inspect_has_the_command_in_path_and_args(document: dict[str, object]) -> None:
    arguments = document["Args"]
    assert document["Path"] == "sh" and isinstance(arguments, list) and arguments[0] == "-c"


def test_inspect_has_the_environment_as_a_list(engine: Engine, seen: str) -> None:
    environment = json.loads(engine.field(seen, "{{json .Config.Env}}"))
    assert "SAID=1" in environment


def test_inspect_has_labels_also_empty_ones(engine: Engine, seen: str) -> None:
    labels = json.loads(engine.field(seen, "{{json .Config.Labels}}"))
    assert labels["tier"] == "front" and labels["empty"] == ""


def test_inspect_has_the_mounts(engine: Engine, seen: str) -> None:
    mounts = json.loads(engine.field(seen, "{{json .Mounts}}"))
    (data,) = [mount for mount in mounts if mount["Destination"] == "/data"]
    assert (data["Type"], data["Name"], data["RW"]) == ("volume", "seen-data", False)


def test_inspect_has_a_process_of_the_host_while_it_runs(engine: Engine, seen: str, ended: str) -> None:
    assert int(engine.field(seen, "{{.State.Pid}}")) > 1
    assert engine.field(ended, "{{.State.Pid}}") == "0"


def test_inspect_has_the_time_of_its_creation(document: dict[str, object]) -> None:
    assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d", str(document["Created"]))


def test_inspect_has_the_id_of_the_image(engine: Engine, document: dict[str, object]) -> None:
    whole = engine.do("image", "inspect", "-f", "{{.Id}}", IMAGE)
    assert str(document["Image"]).removeprefix("sha256:") == whole.removeprefix("sha256:")


def test_inspect_templates_know_conditions_and_ranges(engine: Engine, seen: str) -> None:
    template = "{{if .State.Running}}yes{{else}}no{{end}} {{range $k, $v := .Config.Labels}}{{$k}};{{end}}"
    assert engine.field(seen, template) in ("yes empty;tier;", "yes tier;empty;")


@pytest.mark.differs("its health is there, and empty", "podman")
def test_a_template_may_ask_for_the_health_of_what_has_no_probe(engine: Engine, seen: str) -> None:
    template = "{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}"
    assert engine.field(seen, template).startswith("none")
    assert engine.field(seen, "{{if .Config.Healthcheck}}some{{else}}none{{end}}") == "none"


def test_inspect_of_several_goes_on_after_one_that_is_not_there(engine: Engine, seen: str) -> None:
    said = engine.call("inspect", "-f", "{{.State.Status}}", "nobody-here", seen)
    assert said.code != 0 and said.out.split() == ["running"] and "nobody-here" in said.errors


def test_a_template_with_a_mistake_is_refused(engine: Engine, seen: str) -> None:
    engine.fails("inspect", "-f", "{{.State.Status", seen)


def test_ps_lists_what_runs_and_with_a_what_has_ended(engine: Engine, seen: str, ended: str) -> None:
    assert seen in engine.names() and ended not in engine.names()
    assert {seen, ended} <= engine.names("-a")


FILTERS = {
    "status=running": "seen",
    "status=exited": "ended",
    "exited=4": "ended",
    "label=tier": "both",
    "label=tier=back": "ended",
    "name=^seen$": "seen",
    "name=looked": "ended",
    "volume=seen-data": "seen",
    "since=seen": "ended",
    "before=looked-ended": "seen",
}


@pytest.mark.parametrize("filter", FILTERS)
def test_ps_filters(engine: Engine, seen: str, ended: str, filter: str) -> None:
    wanted = {"seen": {seen}, "ended": {ended}, "both": {seen, ended}}[FILTERS[filter]]
    assert engine.names("-a", "--filter", filter) & {seen, ended} == wanted


@pytest.mark.differs("its names have no slash", "podman")
def test_the_pattern_of_a_name_may_have_dockers_slash(engine: Engine, seen: str, ended: str) -> None:
    for pattern in (f"^/{seen}$", f"/{seen}", f"^{seen}$"):
        assert engine.names("-a", "-f", f"name={pattern}") == {seen}, pattern


@pytest.mark.differs("its rows have other keys", "podman")
@pytest.mark.parametrize("template", ["{{json .}}", "{{with .}}{{json .}}{{end}}", "{{$x := .}}{{json $x}}"])
def test_a_row_of_ps_is_whole(engine: Engine, seen: str, template: str) -> None:
    row = json.loads(engine.do("ps", "-f", f"name={seen}", "--format", template))
    assert seen in row["Names"] and row["State"] == "running" and "tier" in str(row["Labels"])


@pytest.mark.differs("it has Labels only", "podman")
def test_a_row_of_ps_has_labels_by_their_key(engine: Engine, seen: str) -> None:
    def rows(template: str) -> list[str]:
        return engine.do("ps", "-f", f"name={seen}", "--format", template).split()

    assert rows('{{.Label "tier"}}/{{.Label "not-there"}}/{{.Names}}') == [f"front//{seen}"]
    assert rows('{{if eq (.Label "tier") "front"}}yes{{end}}') == ["yes"]
    assert rows('table {{.Names}}\t{{.Label "tier"}}')[-2:] == [seen, "front"]


def test_filters_of_one_key_add_up_and_of_several_narrow_down(engine: Engine, seen: str, ended: str) -> None:
    both = ("--filter", "status=running", "--filter", "status=exited")
    assert engine.names("-a", *both, "--filter", "label=tier") == {seen, ended}
    assert engine.names("-a", *both, "--filter", "label=tier=back") == {ended}


def test_a_filter_that_does_not_exist_is_refused(engine: Engine) -> None:
    engine.fails("ps", "--filter", "colour=red")


def test_ps_q_prints_short_ids_and_with_no_trunc_whole_ones(engine: Engine, seen: str) -> None:
    whole = engine.field(seen, "{{.Id}}")
    assert engine.do("ps", "-q", "--filter", "name=^seen$") == whole[:12]
    assert engine.do("ps", "-q", "--no-trunc", "--filter", "name=^seen$") == whole


def test_ps_has_dockers_columns(engine: Engine, seen: str) -> None:
    heading = engine.do("ps").splitlines()[0]
    assert heading.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]


def test_ps_says_how_long_it_runs_and_how_it_ended(engine: Engine, seen: str, ended: str) -> None:
    rows = dict(
        line.split("|") for line in engine.do("ps", "-a", "--format", "{{.Names}}|{{.Status}}").splitlines()
    )
    assert rows[seen].startswith("Up ") and rows[ended].startswith("Exited (4)")


def test_logs_keep_both_streams_apart_and_in_order(engine: Engine, seen: str) -> None:
    said = engine.call("logs", seen)
    assert (said.out, said.errors) == ("one\nthree\n", "two\n")


def test_logs_with_a_tail_show_the_last_lines_only(engine: Engine, ended: str) -> None:
    assert engine.do("logs", "--tail", "1", ended) == "last"
    assert engine.do("logs", "--tail", "0", ended) == ""


def test_logs_with_times_begin_each_line_with_one(engine: Engine, seen: str) -> None:
    for line in engine.do("logs", "-t", seen).splitlines():
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|[+-]\d\d:\d\d) \w+", line)


def test_logs_since_the_future_and_until_the_past_are_empty(engine: Engine, seen: str) -> None:
    assert engine.call("logs", "--until", "2001-01-01T00:00:00Z", seen).out == ""
    assert engine.call("logs", "--since", "10m", seen).out == "one\nthree\n"


def test_logs_that_are_followed_end_with_the_container(engine: Engine, ended: str) -> None:
    assert engine.do("logs", "-f", ended) == "first\nlast"


def test_logs_of_what_has_ended_are_kept(engine: Engine, ended: str) -> None:
    assert engine.do("logs", ended) == "first\nlast"


def test_diff_says_what_was_added_changed_and_deleted(engine: Engine, ended: str) -> None:
    lines = engine.do("diff", ended).splitlines()
    wanted = {"A /new", "D /seed/file", "C /etc/passwd", "A /etc/dir", "C /etc", "C /seed"}
    assert wanted <= set(lines)


def test_what_a_configured_image_says_is_in_inspect(engine: Engine, name: str) -> None:
    engine.do("create", "--name", name, "--network", "none", CONFIGURED, "own")
    template = "{{.Config.User}} {{.Config.WorkingDir}} {{.Path}} {{json .Args}} {{.Config.Labels.tier}}"
    assert engine.field(name, template) == 'web /srv/work echo ["entry","own"] front'
    assert engine.status(name) == "created"
