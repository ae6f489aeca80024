"""Words of `stead run` become the request that a spec with the same fields becomes; what is wrong is said."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent import byhand
from agent.cli import parsing
from agent.cli.containers import options, wanted
from agent.cli.containers.detaching import Detacher, read_keys
from agent.cli.main import Problem
from agent.render import container_request
from runtime.faults import Fault
from runtime.wishes import Attachment, ContainerRequest, IoLimit, LimitsRequest, ProbeRequest, VolumeRequest
from specs.resolve import resolve
from specs.values import ImageRef, MountPoint, PortBinding

IMAGE = ImageRef.parse("web:1")
ENVIRONMENT = {"HOME": "/root", "EMPTY": ""}


def table(*words: str, read: Mapping[str, str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    asked = parser.parse_args([*words, "web:1"])
    return wanted.table(asked, ENVIRONMENT, (read or {}).__getitem__, "/here")


def request(*words: str, **around: Any) -> ContainerRequest:
    found = byhand.on_some_network(table(*words))
    names = {name: f"full/{name}" for name in found.get("networks", ())}
    others = {name: f"full/{name}" for name in byhand.other_containers(found)}
    return byhand.request("x1", found, byhand.Around(IMAGE, names, others, **around))


def test_the_words_and_a_spec_with_the_same_fields_are_one_request() -> None:
    words = (
        "-e A=1 -w /srv -u 7:8 --entrypoint sh -l a=b -p 8080:80 -v /data:/d:ro --tmpfs /t -m 64m --cpus 0.5"
        " --restart on-failure:3 --stop-signal INT --read-only --cap-drop ALL --sysctl net.core.somaxconn=9"
        " --ulimit nofile=10:20 --shm-size 1m --add-host db:10.0.0.9 --dns 10.0.0.1 --hostname h --init -t -i"
    )
    text = b"""
project = "shop"
[container.x1]
image = "web:1"
environment = { A = "1" }
working_dir = "/srv"
user = "7:8"
entrypoint = ["sh"]
labels = { a = "b" }
ports = ["8080:80"]
volumes = ["/data:/d:ro"]
tmpfs = ["/t"]
memory = "64m"
cpus = 0.5
restart = "on-failure:3"
stop_signal = "INT"
read_only = true
cap_drop = ["ALL"]
sysctls = { "net.core.somaxconn" = "9" }
ulimits = { nofile = { soft = 10, hard = 20 } }
shm_size = "1m"
extra_hosts = { db = "10.0.0.9" }
dns = ["10.0.0.1"]
hostname = "h"
init = true
tty = true
stdin_open = true
"""
    desired, problems = resolve({"a.toml": text}, source="", variables={})
    assert desired is not None, problems
    (want,) = desired.containers.values()
    spec = container_request("", want, desired.images[want.image])
    made = request(*words.split())
    for field in ("name", "project", "service", "networks", "identity", "adjustable", "facets"):
        spec = replace(spec, **{field: getattr(made, field)})
    assert made == replace(spec, probe=made.probe)
    assert (made.name, made.source, made.project, made.service) == ("x1", "", "", "x1")


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("", {}),
        ("-e A=$B=c -e HOME -e NOT_THERE", {"environment": {"A": "$B=c", "HOME": "/root"}}),
        ("-v data:/d", {"mounts": (MountPoint("volume", "data", "/d"),)}),
        ("-v ./a:/d", {"mounts": (MountPoint("bind", "/here/a", "/d", create_source=True),)}),
        ("-v /d", {"mounts": (MountPoint("volume", "", "/d"),)}),
        ("--mount type=bind,src=/a,dst=/d,readonly", {"mounts": (MountPoint("bind", "/a", "/d", True),)}),
        (
            "--mount source=data,target=/d,volume-nocopy,volume-subpath=a",
            {"mounts": (MountPoint("volume", "data", "/d", nocopy=True, subpath="a"),)},
        ),
        (
            "--mount type=tmpfs,target=/d,tmpfs-size=1m,tmpfs-mode=0700",
            {"mounts": (MountPoint("tmpfs", "", "/d", tmpfs_size=1 << 20, tmpfs_mode=0o700),)},
        ),
        ("-p 127.0.0.1:80:81/udp", {"ports": (PortBinding("127.0.0.1", 80, 81, "udp"),)}),
        ("-P", {"publish_all": True}),
        ("--cpu-shares 512", {"limits": LimitsRequest(cpu_weight=50)}),
        ("--blkio-weight 1000", {"limits": LimitsRequest(io_weight=200)}),
        ("--pids-limit -1", {}),
        ("--cpu-quota 50000", {"limits": LimitsRequest(cpus=0.5)}),
        ("--memory-swappiness 7", {"limits": LimitsRequest(swappiness=7)}),
        (
            "--device-read-bps /dev/a:1mb --device-write-iops /dev/a:7",
            {"limits": LimitsRequest(io=(IoLimit("/dev/a", read_bps=1 << 20, write_iops=7),))},
        ),
        ("--stop-timeout 3", {"stop_grace_period": 3.0}),
        ("--network host", {"network_mode": "host", "networks": ()}),
        ("--network container:db", {"network_mode": "container:full/db", "networks": ()}),
        ("--pid container:db", {"pid_mode": "container:full/db"}),
        (
            "--network back --network-alias db --ip 10.0.0.9",
            {"networks": (Attachment("full/back", ("db",), "10.0.0.9"),)},
        ),
        (
            "--network name=back,alias=a,alias=b --network front",
            {"networks": (Attachment("full/back", ("a", "b")), Attachment("full/front"))},
        ),
        ("--no-healthcheck", {"probe": ProbeRequest(disabled=True)}),
        (
            "--health-cmd true --health-interval 2s --restart always",
            {"probe": ProbeRequest(shell="true", interval=2.0, on_failure="restart")},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_word_changes_what_it_says_and_nothing_else(words: str, changed: dict[str, Any]) -> None:
    plain, made = (
        request("--network", "n"),
        request(*("--network n " * ("--net" not in words) + words).split()),
    )
    kept = {"identity": made.identity, "adjustable": made.adjustable, "facets": made.facets}
    if "restart" in words:
        kept["restart"] = made.restart
    assert made == replace(plain, **{"probe": plain.probe, **kept, **changed})


def test_files_of_variables_and_labels_are_read_before_the_words() -> None:
    files = {"f": "# no\nA=1\nHOME\n  B=2 3\nNOT_THERE\n", "l": "a=b\nc\n"}
    found = table("--env-file", "f", "-e", "A=9", "--label-file", "l", "-l", "d", read=files)
    assert found["environment"] == {"A": "9", "HOME": "/root", "B": "2 3"}
    assert found["labels"] == {"a": "b", "c": "", "d": ""}


def test_a_command_and_an_entrypoint_are_taken_as_they_are() -> None:
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    asked = parser.parse_args(["--rm", "web:1", "sh", "-c", "echo $HOME --rm", "-x"])
    found = wanted.table(asked, {}, str, "/")
    assert found["command"] == ["sh", "-c", "echo $HOME --rm", "-x"]
    made = byhand.request("x1", {**found, "network_mode": "none"}, byhand.Around(IMAGE))
    assert made.command == ("sh", "-c", "echo $HOME --rm", "-x")
    assert table("--entrypoint", "")["entrypoint"] == []


def test_a_filter_of_system_calls_goes_with_the_words() -> None:
    text = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}'
    found = table("--security-opt", "seccomp=/my/profile", "--network", "none")
    files = wanted.profile(found, {"/my/profile": text}.__getitem__)
    made = byhand.request("x1", found, byhand.Around(IMAGE, files=files))
    assert "SCMP_ACT_ALLOW" in made.seccomp_profile
    with pytest.raises(Fault, match="seccomp"):
        byhand.request("x1", found, byhand.Around(IMAGE, files={"seccomp.json": "{"}))


def test_the_volumes_of_others_do_not_hide_its_own() -> None:
    theirs = (MountPoint("volume", "a", "/a"), MountPoint("volume", "b", "/b"))
    made = request("-v", "mine:/a", "--network", "n", mounts=theirs)
    assert made.mounts == (MountPoint("volume", "mine", "/a"), theirs[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--link db", "find each other by name"),
        ("--volume-driver nfs", "there is local only"),
        ("--gpus all", "cannot use --gpus"),
        ("-v a/b:/d", "a path begins with"),
        ("--mount type=bind,sauce=/a", "there is no 'sauce'"),
        ("--mount type=bind,source=/a", "target is missing"),
        ("--ulimit nofile", "NAME=SOFT"),
        ("--blkio-weight 5", "10 to 1000"),
        ("--cpu-shares much", "whole number"),
        ("--device-read-bps /dev/a", "PATH:RATE"),
        ("--network host --ip 10.0.0.9", "with other networks"),
        ("--network name=a,color=red", "there is no 'color'"),
        ("--no-healthcheck --health-cmd true", "leave one out"),
        ("-e =1", "KEY=VALUE"),
    ],
)
def test_what_cannot_be_read_is_a_problem_of_the_command(words: str, said: str) -> None:
    with pytest.raises(Problem, match=said) as caught:
        table(*words.split())
    assert caught.value.code == 125


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-m much", "memory: cannot read size 'much'"),
        ("--restart sometimes", "restart: cannot use 'sometimes'"),
        ("--cap-add FLY", "cap_add.*FLY"),
        ("--memory-swap 1g", "memory_swap needs memory"),
        ("--network host -p 80:80", "ports cannot be published with network_mode 'host'"),
        ("-p 99999:1", "ports"),
        ("-u root --uts host --hostname a", "hostname"),
        ("--stop-timeout -1", "stop_grace_period"),
    ],
)
def test_what_a_spec_refuses_is_refused_in_its_words(words: str, said: str) -> None:
    with pytest.raises(Fault, match=said) as caught:
        request(*words.split())
    assert caught.value.code == "request-invalid"


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-@,a", b"\x00a"), ("ctrl-\\", b"\x1c"), ("", b""), ("q", b"q")],
)
def test_keys_are_read(text: str, keys: bytes) -> None:
    assert read_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "alt-x", "ctrl-p,", "é"])
def test_keys_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="detach keys"):
        read_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "left"),
    [
        ([b"ab\x10\x11c"], b"ab", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"\x10a"], b"\x10a", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x10", b"\x10", b"x"], b"\x10\x10x", False),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_what_is_typed_before_the_keys_is_passed_on(typed: list[bytes], passed: bytes, left: bool) -> None:
    detacher = Detacher(read_keys("ctrl-p,ctrl-q"))
    assert b"".join(map(detacher.feed, typed)) == passed
    assert detacher.detached is left


def test_every_option_of_run_is_in_its_help() -> None:
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    text = parser.format_help()
    for action in parser._actions:
        assert action.help or not action.option_strings, action.dest
        assert all(flag in text for flag in action.option_strings)


def test_small_documents_are_remembered_and_large_ones_not() -> None:
    before = byhand._resolved.cache_info()
    for _ in range(2):
        request("-e", "A=remembered")
    after = byhand._resolved.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses + 1)
    large = "x" * 100_000
    assert request("-e", f"A={large}").environment["A"] == large
    assert byhand._resolved.cache_info() == after


def test_labels_of_a_volume_that_is_made_are_its_own_and_no_matter_of_the_mount() -> None:
    words = ("--mount", "type=volume,src=data,dst=/d,volume-label=tier=back,volume-label=x,volume-nocopy")
    made = byhand.new_volumes(table(*words))
    assert made == {"data": VolumeRequest("data", "", "", {"tier": "back", "x": ""})}
    assert request(*words).mounts == (MountPoint("volume", "data", "/d", nocopy=True),)
    anonymous = request("--mount", "type=volume,dst=/d,volume-label=a=b").mounts
    assert anonymous == (MountPoint("volume", "", "/d", labels=(("a", "b"),)),)


@pytest.mark.parametrize("words", ["--isolation default", "--isolation=", "--runtime stead", "--runtime="])
def test_what_there_is_one_kind_of_may_be_named(words: str) -> None:
    assert request(*words.split()) == request()


@pytest.mark.parametrize(("words", "hint"), [("--isolation hyperv", "default"), ("--runtime kata", "stead")])
def test_another_kind_is_refused_with_the_one_that_there_is(words: str, hint: str) -> None:
    with pytest.raises(Problem, match=hint) as raised:
        request(*words.split())
    assert raised.value.code == 125


@pytest.mark.parametrize("option", ["interval", "timeout", "start-period", "start-interval"])
def test_no_time_of_a_probe_is_below_a_millisecond(option: str) -> None:
    with pytest.raises(Fault, match="cannot be less than one millisecond"):
        request("--health-cmd", "true", f"--health-{option}", "999us")
    assert request("--health-cmd", "true", f"--health-{option}", "1ms") != request("--health-cmd", "true")


def test_nothing_of_a_probes_time_means_the_usual_one() -> None:
    words = ("--health-interval", "0s", "--health-timeout", "0", "--health-retries", "0")
    assert request("--health-cmd", "true", *words) == request("--health-cmd", "true")


def test_words_that_docker_takes_for_nothing_are_nothing() -> None:
    words = (
        "--memory-swappiness -1 --cpu-period 0 --cpu-quota 0 -m 0 --cpus 0 --pids-limit 0 -c 0 --shm-size 0"
    )
    assert request(*words.split()) == request()
    assert request("--restart", "on-failure:0") == request("--restart", "on-failure")


def test_a_key_has_blanks_on_the_command_line_and_not_in_a_file() -> None:
    assert request("-l", "a b=c", "-e", "D E=f").labels == {"a b": "c"}
    with pytest.raises(Problem, match="write KEY=VALUE"):
        table("--label-file", "f", read={"f": "a b=c"})


@pytest.mark.parametrize("flag", ["--cgroup-parent=/x", "--cpuset-mems=0", "--oom-kill-disable"])
def test_what_is_not_taken_is_refused_by_name(flag: str) -> None:
    with pytest.raises(Problem, match=f"cannot use {flag.partition('=')[0]}: "):
        table(flag)


def test_a_volume_is_made_with_the_options_of_a_mount_which_may_be_quoted() -> None:
    text = (
        'type=volume,src=v,dst=/d,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"volume-opt=o=size=1m,uid=5"'
    )
    (made,) = byhand.new_volumes(table("--mount", text)).values()
    assert made.options == {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=5"}
    assert request("--mount", text).mounts == (MountPoint("volume", "v", "/d"),)


def flags(*words: str) -> list[str]:
    parser = parsing._Parser()
    options.add_options(parser)
    found = vars(parser.parse_args(words))
    return [key for key, value in found.items() if value is True] + found["command"]


def test_a_flag_may_have_a_value_as_gos_have() -> None:
    assert flags("--init=true", "--tty=false", "-i=1", "web:1") == ["interactive", "init"]
    assert flags("-e", "A=1", "-itv", "/a:/b", "--rm=T", "web:1") == ["interactive", "tty", "rm"]
    assert flags("web:1", "prog", "--init=true", "-i") == ["prog", "--init=true", "-i"]
    assert flags("-i", "-", "--init=true") == ["interactive", "--init=true"]
    assert flags("", "--init=true") == ["--init=true"]
    with pytest.raises(SystemExit):
        flags("--init=perhaps", "web:1")
