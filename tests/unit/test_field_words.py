"""Words for namespaces, processors, devices, pages and profiles: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from runtime import bundle
from runtime.wishes import ContainerRequest, joined
from specs.interpolate import parse_raw
from specs.resolve import resolve
from specs.values import ImageRef
from tests.spec_text import container, desired_of, problems, read

OTHER = '[container.o]\nimage = "a"\nipc = "shareable"\nvolumes = ["/data"]'


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ('pid = "host"', "pid_mode", "host"),
        ('pid = "private"', "pid_mode", ""),
        ('pid = "service:o"', "pid_mode", "container:p/o"),
        ('ipc = "container:o"', "ipc_mode", "container:p/o"),
        ('ipc = "none"', "ipc_mode", "none"),
        ('uts = "container:p/o"', "uts_mode", "container:p/o"),
        ('cgroup = "host"', "cgroup_mode", "host"),
        ("init = true", "init", True),
        ("oom_score_adj = -5", "oom_score_adj", -5),
        ('device_cgroup_rules = ["c  1:* rw"]', "device_rules", ("c 1:* rw",)),
        ('volumes_from = ["o:ro", "container:o"]', "volumes_from", (("p/o", True), ("p/o", False))),
        ("labels = { a = 1 }\nlabel_file = []", "labels", {"a": "1"}),
        ('develop = { watch = [{ path = "." }] }', "labels", {}),
        ('deploy = { endpoint_mode = "vip", labels = { a = "b" } }', "labels", {}),
    ],
)
def test_a_word_means(line: str, field: str, expected: object) -> None:
    assert getattr(container(line, around=OTHER), field) == expected


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("cpu_quota = 50000", "cpus", 0.5),
        ("cpu_quota = 30000\ncpu_period = 20000", "cpus", 1.5),
        ("cpu_quota = -1", "cpus", 0.0),
        ("cpu_shares = 512", "cpu_weight", 50),
        ("cpu_shares = 2", "cpu_weight", 1),
        ('hugepages = { 2MiB = "64m", "1gb" = "1g" }', "hugepages", (("1GB", 1 << 30), ("2MB", 64 << 20))),
        ("mem_swappiness = 0", "swappiness", 0),
    ],
)
def test_a_limit_in_composes_words_is_the_same_limit(line: str, field: str, expected: object) -> None:
    assert getattr(container(line).limits, field) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('pid = "container:c"', "pid: a container cannot have its own pid namespace from itself"),
        ('pid = "container:x"', "pid: no container 'x'"),
        ('ipc = "container:d"', "ipc: 'd' does not share its memory (write ipc = \"shareable\" in d)"),
        ('uts = "container:o"\nhostname = "h"', "hostname: it is a matter of 'o', whose uts namespace"),
        ('ipc = "container:o"\nshm_size = "1m"', "shm_size: it is a matter of 'o', whose ipc namespace"),
        ('ipc = "none"\nshm_size = "1m"', "shm_size: there is no /dev/shm"),
        ('ipc = "container:o"\nsysctls = { "kernel.msgmax" = 1 }', "sysctls: kernel setting 'kernel.msgmax'"),
        ('pid = "container:r"', "pid: 'r' has replicas, each with a pid namespace of its own"),
        ('pid = "container:h"', "pid: 'h' has the host's pid namespace (write host)"),
        ('volumes_from = ["x"]', "volumes_from[0]: no container 'x'"),
        ('volumes_from = ["o:rx"]', "volumes_from[0]: cannot read 'o:rx'"),
        ("cpu_period = 5000", "cpu_period: it says nothing without cpu_quota"),
        ("cpu_quota = 5000\ncpus = 1", "cpu_quota: `cpus` says the same"),
        ("cpu_quota = 5", "cpu_quota: a quota has 1000 microseconds or more"),
        ("cpu_shares = 5\ncpu_weight = 1", "cpu_shares: `cpu_weight` says the same"),
        ('hugepages = { big = "1m" }', "hugepages.big: cannot read size of a page 'big'"),
        ('device_cgroup_rules = ["c 1 r"]', "device_cgroup_rules[0]: cannot read device rule 'c 1 r'"),
        ('label_file = "x.conf"', "label_file: cannot read label_file 'x.conf': no such file"),
        ("cpu_count = 2", "cpu_count: not supported yet (write `cpus`)"),
        ('storage_opt = { size = "1g" }', "storage_opt: not supported yet (limit the disk"),
        ('links = ["o"]', "unknown key 'links' (containers of one network find each other by name)"),
    ],
)
def test_what_cannot_be_meant_is_said_at_its_place(line: str, expected: str) -> None:
    around = f"{OTHER}\n[container.d]\nimage='a'\n[container.r]\nimage='a'\nreplicas=2\n"
    around += "[container.h]\nimage='a'\npid='host'"
    (found,) = problems(line, around=around)
    assert expected in found and found.startswith("c.toml:")


def test_what_has_a_namespace_or_volumes_of_another_waits_for_it() -> None:
    for line in ('pid = "service:o"', 'ipc = "service:o"', 'uts = "service:o"', 'volumes_from = ["o"]'):
        assert [one.container for one in container(line, around=OTHER).depends_on] == ["p/o"]


def test_two_that_have_a_namespace_of_each_other_are_a_cycle() -> None:
    (found,) = problems('pid = "container:o"', around='[container.o]\nimage="a"\nuts = "container:c"')
    assert "containers wait for each other: p/c (c.toml:2) -> p/o (c.toml:5) -> p/c" in found


def test_labels_of_a_file_give_way_to_those_of_the_container() -> None:
    text = 'project = "p"\n[container.c]\nimage = "a"\nlabel_file = "l.env"\nlabels = { a = "2" }'
    desired = desired_of({"c.toml": text, "l.env": "a=1\nb=x y\n"})
    assert desired.containers["p/c"].labels == {"a": "2", "b": "x y"}


def test_a_raw_env_file_keeps_quotes_and_dollars() -> None:
    assert parse_raw(b"# no\n\nA='x $B'\nC=\n D=1=2\n") == ({"A": "'x $B'", "C": "", "D": "1=2"}, [])
    assert parse_raw(b"A=1\nB\n") == ({"A": "1"}, [(2, 1, "cannot read line: write KEY=value")])
    text = 'project = "p"\n[container.c]\nimage = "a"\nenv_file = [{ path = "e.env", format = "raw" }]'
    desired = desired_of({"c.toml": text, "e.env": 'A="$B"\n'})
    assert desired.containers["p/c"].environment == {"A": '"$B"'}


PROFILED = """project = "p"
[container.always]
image = "a"
[container.debug]
image = "b"
profiles = ["tools", "debug"]
"""


@pytest.mark.parametrize(
    ("profiles", "expected"),
    [
        ((), {"p/always"}),
        (("other",), {"p/always"}),
        (("debug",), {"p/always", "p/debug"}),
        (("*",), {"p/always", "p/debug"}),
    ],
)
def test_a_container_with_profiles_is_there_when_one_is_asked_for(
    profiles: tuple[str, ...], expected: set[str]
) -> None:
    desired, found = resolve({"c.toml": PROFILED.encode()}, source="s", variables={}, profiles=profiles)
    assert desired is not None, found
    assert set(desired.containers) == expected
    assert len(desired.images) == len(expected)


def test_waiting_for_one_that_is_not_there_for_its_profile_is_a_problem_unless_it_is_not_required() -> None:
    more = PROFILED + '[container.c]\nimage = "a"\ndepends_on = ["debug"]\n'
    (found,) = read({"c.toml": more})[1]
    assert "container 'debug' is not there: none of its profiles (tools and debug) is asked for" in found
    well = more.replace('["debug"]', "{ debug = { required = false } }")
    assert desired_of({"c.toml": well}).containers["p/c"].depends_on == ()


def test_device_rules_are_the_oci_specs() -> None:
    assert bundle.device_rules("c 1:* rw") == [
        {"allow": True, "type": "c", "major": 1, "minor": -1, "access": "rw"}
    ]
    assert [rule["type"] for rule in bundle.device_rules("a *:* m")] == ["c", "b"]


def test_namespaces_of_others_are_named_by_the_runtime_specs_words() -> None:
    request = ContainerRequest(
        "p/c", "s", "", "", "", ImageRef.parse("a"), pid_mode="container:p/o", ipc_mode="host"
    )
    assert joined(request) == (("pid", "p/o"),)
