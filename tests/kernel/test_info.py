"""What `stead version` and `stead info` say, with an agent and without one. Needs root."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.process import release
from runtime.paths import Paths
from tests.kernel.hand_box import BUSYBOX, Hand, hand
from tests.kernel.node_box import Node

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hand]:
    with hand(tmp_path_factory.mktemp("info")) as made:
        yield made


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Node]:
    """A machine on which nothing was ever made; asking changes that no more."""
    yield Node(Paths(tmp_path / "root", tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_told_without_an_agent(bare: Node) -> None:
    said = bare.run("version")
    kernel = os.uname().release
    assert said.code == 0 and f"Version:           {release()}" in said.out and kernel in said.out
    assert "Agent:             none runs" in said.out
    found = json.loads(bare.run("version", "--format", "json").out)
    assert found["Client"]["Version"] == found["Server"]["Version"] == release()
    assert bare.run("version", "-f", "{{.Client.Os}} {{.Version}}").out == f"linux {release()}\n"
    assert json.loads(bare.run("version", "-f", "{{json .}}").out) == found
    assert bare.run("version", "-f", "{{.Nothing}}").code == 2


def test_a_version_tells_which_agent_lives(box: Hand) -> None:
    assert f"pid {box.agents[0].pid}" in box.do("version")
    assert box.do("version", "-f", "{{.Server.Version}}") == release()


def test_info_of_an_empty_machine_needs_no_agent(bare: Node) -> None:
    said = bare.run("info")
    assert said.code == 0 and " Containers: 0\n  Running: 0\n" in said.out
    assert said.out.splitlines()[-1] == " Agent: none runs"
    assert bare.run("system", "info", "-f", "{{.Images}} {{.agent.alive}}").out == "0 false\n"


def test_info_counts_containers_by_their_state(box: Hand) -> None:
    box.do("run", "-d", "--name", "on", BUSYBOX, "sleep", "1000")
    box.do("run", "-d", "--name", "frozen", BUSYBOX, "sleep", "1000")
    box.do("pause", "frozen")
    box.do("create", "--name", "new", BUSYBOX, "true")
    found = json.loads(box.do("info", "--format", "json"))
    counts = {key: found[f"Containers{key}"] for key in ("", "Running", "Paused", "Stopped")}
    assert counts == {"": 3, "Running": 1, "Paused": 1, "Stopped": 1} and found["Images"] == 1
    assert "  Running: 1\n  Paused: 1\n  Stopped: 1\n" in box.do("info")
    for name in ("on", "frozen", "new"):
        box.do("rm", "-f", name)


def test_info_tells_of_the_machine_and_its_agent(box: Hand) -> None:
    settings = str(box.specs.parent / "stead.toml")
    found = json.loads(box.do("info", "--settings", settings, "-f", "{{json .}}"))
    assert found["DefaultAddressPools"] == [{"Base": "10.213.0.0/16", "Size": 24}]
    assert (found["DockerRootDir"], found["KernelVersion"]) == (str(box.paths.root), os.uname().release)
    assert found["cgroup_mode"] in ("v1", "v2", "hybrid")
    assert found["CgroupVersion"] == ("2" if found["cgroup_mode"] == "v2" else "1")
    assert "name=seccomp,profile=default" in found["SecurityOptions"]
    walls = {word.partition(",")[0].removeprefix("name=") for word in found["SecurityOptions"]}
    assert not walls & found["missing"].keys()
    assert found["agent"]["alive"] and found["agent"]["pid"] == box.agents[0].pid
    assert f" Agent: pid {box.agents[0].pid}, " in box.do("info")


def test_images_are_handled_by_dockers_short_words_too(box: Hand, tmp_path: Path) -> None:
    box.do("tag", BUSYBOX, "short:1")
    assert box.do("images", "-q=true", "short") == box.do("image", "ls", "-q", "short") != ""
    box.do("save", "-o", str(tmp_path / "short.tar"), "short:1")
    assert "Untagged: short:1" in box.do("rmi", "--force=true", "short:1")
    assert "short:1" in box.do("load", "-i", str(tmp_path / "short.tar"))
    box.do("rmi", "short:1")
