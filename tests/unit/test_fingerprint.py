"""A fingerprint changes with what was asked for, and with nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from specs.desired import (
    DesiredContainer,
    DesiredNetwork,
    DesiredVolume,
    IoLimit,
    Limits,
    Probe,
    Restart,
)
from specs.fingerprint import (
    changed_fields,
    fingerprints,
    network_fingerprint,
    same_network,
    show,
    volume_fingerprint,
)
from tests.other_values import ADJUSTABLE, IDENTITY
from tests.spec_text import container

PLAIN = DesiredContainer("p/c", "docker.io/library/a:latest")

#: What it is called, what is kept elsewhere, and what the planner reads by itself.
NEITHER = {
    "name",
    "image",
    "project",
    "depends_on",
    "desired",
    "job",
    "suspend",
    "identity",
    "adjustable",
    "facets",
    "place",
    "service",
    "way_back",
    "image_id",
}


def prints(one: DesiredContainer) -> tuple[str, str]:
    return fingerprints(one, image=one.image)[:2]


def test_every_field_of_a_container_is_in_one_fingerprint_or_known_to_be_in_none() -> None:
    assert {field.name for field in fields(DesiredContainer)} == {*IDENTITY, *ADJUSTABLE} | NEITHER
    assert not IDENTITY.keys() & ADJUSTABLE.keys()


@pytest.mark.parametrize("field", IDENTITY)
def test_a_change_of_what_it_is_makes_another_container(field: str) -> None:
    before, after = prints(PLAIN), prints(replace(PLAIN, **{field: IDENTITY[field]}))
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize("field", ADJUSTABLE)
def test_a_change_of_what_the_kernel_or_the_shim_can_change_is_no_other_container(field: str) -> None:
    before, after = prints(PLAIN), prints(replace(PLAIN, **{field: ADJUSTABLE[field]}))
    assert before[0] == after[0]
    assert before[1] != after[1]


NO_NUMBERS = ("io", "cpuset", "hugepages")
LIMITS = [Limits(**{field.name: 7}) for field in fields(Limits) if field.name not in NO_NUMBERS]
LIMITS += [
    Limits(cpuset="0"),
    Limits(hugepages=(("2MB", 0),)),
    Limits(io=(IoLimit("8:0", read_bps=7),)),
    Limits(io=(IoLimit("8:0", write_iops=7),)),
]
PROBES = [
    Probe(shell="a"),
    Probe(exec=("a",)),
    Probe(http="http://:80"),
    Probe(tcp=":80"),
    Probe(disabled=True),
    Probe(tcp=":80", interval=1),
    Probe(tcp=":80", timeout=1),
    Probe(tcp=":80", retries=1),
    Probe(tcp=":80", start_period=1),
    Probe(tcp=":80", start_interval=1),
    Probe(tcp=":80", on_failure="stop"),
    Probe(http="http://:80", method="HEAD"),
    Probe(http="http://:80", headers=(("a", "b"),)),
    Probe(http="http://:80", expect_status="204"),
    Probe(http="http://:80", tls_verify=True),
]
RESTARTS = [
    Restart("on-failure"),
    Restart("on-failure", 2),
    Restart(initial=1),
    Restart(max=5),
    Restart(reset_after=1),
]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("limits", LIMITS),
        ("probe", PROBES),
        ("restart", RESTARTS),
        ("startup", PROBES),
        ("readiness", PROBES),
    ],
)
def test_each_part_of_a_limit_a_probe_and_a_policy_counts(field: str, values: list[Any]) -> None:
    found = {prints(replace(PLAIN, **{field: value}))[1] for value in values}
    assert len(found | {prints(PLAIN)[1]}) == len(values) + 1


@pytest.mark.parametrize(
    "lines",
    [
        'restart = "always"',
        'stop_grace_period = "10s"',
        'logging = { driver = "local", options = { max-size = "10m", max-file = 3 } }',
        'networks = ["default"]',
        'network_mode = "bridge"',
        'restart_backoff = { initial = "100ms", max = "1m", reset_after = "10s" }',
        'pid = "private"\nipc = "private"\nuts = "private"',
        "read_only = false\nprivileged = false\ntty = false",
        "environment = {}\nlabels = []\nports = []\ncap_add = []",
        'depends_on = {}\ndesired = "running"',
        "cpus = 0\nmemory = 0\npids = -1",
    ],
)
def test_a_default_that_is_spelled_out_changes_nothing(lines: str) -> None:
    plain, spelled = container(""), container(lines)
    assert (plain.identity, plain.adjustable, plain.facets) == (
        spelled.identity,
        spelled.adjustable,
        spelled.facets,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('cap_add = ["KILL", "CHOWN"]', 'cap_add = ["cap_chown", "kill", "CHOWN"]'),
        ('ports = ["80:80", "81:81"]', 'ports = ["81:81", "80:80/tcp"]'),
        ('memory = "1g"', 'memory = "1024MiB"'),
        ("environment = { A = 1, B = 2 }", 'environment = ["B=2", "A=1"]'),
        ('stop_grace_period = "90s"', 'stop_grace_period = "1m30s"'),
        ('command = "a b"', 'command = ["a", "b"]'),
        ('memory = "1g"', 'deploy = { resources = { limits = { memory = "1gb" } } }'),
        ('volumes = ["/a/:/b"]', 'volumes = ["/a:/b/"]'),
    ],
)
def test_two_ways_to_write_one_thing_are_one_thing(one: str, other: str) -> None:
    first, second = container(one), container(other)
    assert (first.identity, first.adjustable) == (second.identity, second.adjustable)


def test_the_image_and_its_platform_count_and_the_place_does_not() -> None:
    assert container('platform = "linux/arm64"').identity != container("").identity
    assert container("\n\n\n").identity == container("").identity
    assert container("", around="[volume.v]").identity == container("").identity


def test_what_changed_is_told_field_by_field() -> None:
    old = container('memory = "64m"\nenvironment = { A = "1", B = "x" }\ncommand = "a"')
    new = container('memory = "1g"\nenvironment = { A = "2", C = "x\\ny" }\ncommand = "a"')
    assert changed_fields(old.facets, new.facets) == (
        ("environment.A", "1", "2"),
        ("environment.B", "x", ""),
        ("environment.C", "", "x\\ny"),
        ("memory", "64MiB", "1GiB"),
    )
    assert changed_fields("junk", old.facets) == changed_fields("", old.facets)
    assert (show(True), show(["a", "b"]), show(3)) == ("true", "a, b", "3")


def test_labels_of_a_network_make_no_other_network() -> None:
    plain = network_fingerprint(DesiredNetwork("p/n"))
    labelled = network_fingerprint(DesiredNetwork("p/n", labels={"a": "b"}))
    other = network_fingerprint(DesiredNetwork("p/n", mtu=1400, labels={"a": "b"}))
    assert plain != labelled and same_network(plain, labelled)
    assert not same_network(labelled, other)
    changed = {
        network_fingerprint(DesiredNetwork("p/n", **change))
        for change in (
            {},
            {"subnet": "10.0.0.0/24"},
            {"gateway": "10.0.0.9"},
            {"internal": True},
            {"mtu": 9000},
        )
    }
    assert len(changed) == 5


def test_the_fingerprint_of_a_volume_is_over_its_labels() -> None:
    one, two = DesiredVolume("p/v"), DesiredVolume("p/v", labels={"a": "b"})
    assert volume_fingerprint(one) != volume_fingerprint(two)
    assert volume_fingerprint(one) == volume_fingerprint(DesiredVolume("q/w"))


def test_fingerprints_of_this_release_are_those_of_the_first() -> None:
    """An upgrade of the agent replaces nothing. These texts are for ever."""
    one = container('command = ["a", "b"]\nenvironment = { A = "1" }\nmemory = "64MiB"\nports = ["80:80"]')
    assert one.facets == (
        '{"adjustable":{"memory":"64MiB","ports":["80:80/tcp"]},"identity":{"command":["a","b"],'
        '"environment.A":"1","image":"docker.io/library/a:latest","networks":["p/default"]}}'
    )
    assert one.identity == "fdf9771b7b4876a4945de570d636e58a"
    assert one.adjustable == "c3265f6ec7f22bcdc1e831a5508c9210"
