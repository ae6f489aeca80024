"""Ports, networks and names, as far as the engines agree on them; limits that change; events."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.behaviour.engines import IMAGE, Engine, until

pytestmark = pytest.mark.root

SERVER = "echo well > /tmp/index.html; exec httpd -f -p 80 -h /tmp"


@pytest.fixture(scope="module")
def net(engine: Engine) -> Iterator[str]:
    name = "behaviour-net"
    engine.do("network", "create", "--subnet", "10.231.7.0/24", name)
    yield name
    engine.call("network", "rm", name)


@pytest.fixture(scope="module")
def server(engine: Engine, net: str) -> Iterator[str]:
    """Serves a page on its network, publishes three ports, has an alias and a label."""
    name = "served"
    words = ["--network", net, "--network-alias", "page", "--ip", "10.231.7.77", "-l", "tier=front"]
    words += ["-p", "127.0.0.1:18731:80", "-p", "127.0.0.1::81", "-p", "127.0.0.1:18732:53/udp"]
    engine.do("run", "-d", "--name", name, *words, IMAGE, "sh", "-c", SERVER)
    yield name
    engine.forget(name)


def test_port_says_where_published_ports_are(engine: Engine, server: str) -> None:
    lines = engine.do("port", server).splitlines()
    assert "80/tcp -> 127.0.0.1:18731" in lines and "53/udp -> 127.0.0.1:18732" in lines
    assert engine.do("port", server, "80/tcp") == engine.do("port", server, "80") == "127.0.0.1:18731"


def test_a_port_without_a_number_gets_one(engine: Engine, server: str) -> None:
    address, _, number = engine.do("port", server, "81").rpartition(":")
    assert address == "127.0.0.1" and int(number) > 1023


def test_port_of_what_is_not_published_fails(engine: Engine, server: str) -> None:
    engine.fails("port", server, "82")


def test_ps_shows_the_ports(engine: Engine, server: str) -> None:
    assert "127.0.0.1:18731->80/tcp" in engine.do("ps", "--format", "{{.Ports}}", "--filter", "name=served")


def test_a_port_that_is_taken_is_refused(engine: Engine, server: str) -> None:
    words = ("-p", "127.0.0.1:18731:80", IMAGE, "true")
    assert "18731" in engine.fails("run", "--rm", *words)


@pytest.mark.parametrize("text", ["nonsense", "70000:80", "80:70000", "1:2:3:4:5", "80/what"])
def test_what_is_no_port_is_refused(engine: Engine, text: str) -> None:
    engine.fails("create", "-p", text, IMAGE, "true")


def test_a_neighbour_is_found_by_name_and_by_alias(engine: Engine, net: str, server: str) -> None:
    script = "for name in served page; do until wget -qO- http://$name/; do sleep 0.05; done; done"
    said = engine.call("run", "--rm", "--network", net, IMAGE, "timeout", "50", "sh", "-c", script)
    assert said.out == "well\nwell\n"


@pytest.mark.differs("A network made by hand is of the project `default`", "stead")
def test_a_container_has_the_address_that_it_asked_for(engine: Engine, net: str, server: str) -> None:
    networks = json.loads(engine.field(server, "{{json .NetworkSettings.Networks}}"))
    assert networks[net]["IPAddress"] == "10.231.7.77"
    assert networks[net]["Gateway"] == "10.231.7.1" and networks[net]["IPPrefixLen"] == 24


def test_a_network_that_a_container_is_on_cannot_be_removed(engine: Engine, net: str, server: str) -> None:
    engine.fails("network", "rm", net)


def test_a_container_can_share_the_network_of_another(engine: Engine, server: str) -> None:
    words = ("run", "--rm", "--network", f"container:{server}", IMAGE)
    script = "until wget -qO- http://127.0.0.1/; do sleep 0.05; done"
    assert engine.do(*words, "timeout", "50", "sh", "-c", script) == "well"


def test_a_container_of_the_hosts_network_sees_no_eth0_of_its_own(engine: Engine) -> None:
    words = ("run", "--rm", "--network", "host", IMAGE, "readlink", "/proc/self/ns/net")
    first, second = engine.do(*words), engine.do(*words)
    assert first == second


@pytest.mark.differs("A network made by hand is of the project `default`", "stead")
def test_network_ls_has_the_network_with_its_driver(engine: Engine, net: str) -> None:
    rows = engine.do("network", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines()
    assert f"{net} bridge" in rows


def test_update_changes_limits_of_what_runs(engine: Engine, server: str) -> None:
    engine.do("update", "--memory", "96m", "--memory-swap", "96m", "--cpu-shares", "256", server)
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert engine.do("exec", server, "sh", "-c", script) == str(96 << 20)


def test_events_of_a_container_are_in_order(engine: Engine, name: str) -> None:
    engine.do("run", "--name", name, "--network", "none", IMAGE, "true")
    words = ("events", "--since", "5m", "--until", "1s", "--filter", f"container={name}")

    def actions() -> list[str]:
        found = engine.do(*words, "--format", "{{json .}}").splitlines()
        rows = [json.loads(line) for line in found]
        return [str(row.get("Action") or row.get("Status") or row.get("status")) for row in rows]

    until(lambda: {"die", "died"} & set(actions()) != set())
    seen = actions()
    assert seen.index("create") < seen.index("start")


@pytest.mark.differs("podman has keys of its own", "podman")
def test_an_event_as_json_has_dockers_keys_by_a_template_too(engine: Engine, name: str) -> None:
    engine.do("create", "--name", name, "--network", "none", IMAGE, "true")
    words = ("events", "--since", "5m", "--until", "0s", "--filter", f"container={name}", "--format")
    until(lambda: engine.do(*words, "{{.ID}}") != "")  # docker takes until for whole seconds
    (row,) = (json.loads(line) for line in engine.do(*words, "{{json .}}").splitlines())
    assert (row["status"], row["Action"], row["scope"]) == ("create", "create", "local")
    assert {"id", "from", "Type", "Actor", "time", "timeNano"} <= set(row)
    assert engine.do(*words, "{{.Status}} {{.Scope}}") == "create local"


@pytest.mark.differs("podman 4 has none in inspect", "podman")
def test_a_range_of_exposed_ports_is_shown_one_by_one(engine: Engine, name: str) -> None:
    engine.do("create", "--name", name, "--expose", "90-91/udp", "--expose", "81", IMAGE, "true")
    ports = json.loads(engine.field(name, "{{json .Config.ExposedPorts}}"))
    assert sorted(ports) == ["81/tcp", "90/udp", "91/udp"]


def test_prune_takes_what_has_ended_and_leaves_what_runs(engine: Engine, server: str, name: str) -> None:
    engine.do("create", "--name", name, "--network", "none", "-l", "prune=me", IMAGE, "true")
    engine.do("container", "prune", "-f", "--filter", "label=prune=me")
    names = engine.names("-a")
    assert server in names and name not in names


def test_stats_once_has_a_row_with_dockers_columns(engine: Engine, server: str) -> None:
    row = engine.do("stats", "--no-stream", "--format", "{{.Name}}|{{.PIDs}}|{{.CPUPerc}}", server)
    name, pids, percent = row.split("|")
    assert name == server and int(pids) >= 1 and percent.endswith("%")
