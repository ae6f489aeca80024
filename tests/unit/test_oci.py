"""The low-level runtime's decisions: its command line, resources as files, JSON without `json`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.linux import devices, jsontext
from runtime.oci import arguments, fields, resources, scopes
from runtime.oci.failure import OciFailure
from runtime.shim import sysctls

# ---------------------------------------------------------------- arguments


def test_options_are_read_as_engines_write_them() -> None:
    words = "--root /r --log=/l --log-format json --systemd-cgroup"
    words += " exec -e A=1 --env B=2 -u 1:2 --preserve-fds=3 c sh -c x"
    call = arguments.parse(words.split())
    assert call.general == {"root": "/r", "log": "/l", "log-format": "json", "systemd-cgroup": True}
    assert call.command == "exec"
    assert call.options == {"env": ["A=1", "B=2"], "user": "1:2", "preserve-fds": 3}
    assert call.words == ["c", "sh", "-c", "x"]


def test_a_short_f_is_the_force_of_one_command_and_the_format_of_another() -> None:
    assert arguments.parse(["delete", "-f", "c"]).options == {"force": True}
    assert arguments.parse(["list", "-f", "json"]).options == {"format": "json"}


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["create"], "takes 1 arguments, and 0 were given"),
        (["create", "a", "b"], "takes 1 arguments, and 2 were given"),
        (["kill"], "takes 1 to 2 arguments"),
        (["create", "--colour", "a"], "unknown option --colour"),
        (["create", "--bundle"], "option --bundle needs a value"),
        (["create", "--preserve-fds", "x", "a"], "'x' is no number"),
        (["fly", "a"], "no such command"),
        (["checkpoint", "a"], "does not use CRIU"),
    ],
)
def test_wrong_words_are_told(words: list[str], cause: str) -> None:
    with pytest.raises(OciFailure, match=cause):
        arguments.parse(words)


# ---------------------------------------------------------------- resources


def written(document: dict[str, Any], *, v2: bool) -> list[str]:
    return [f"{item.file}={item.value}" for item in resources.writes(document, v2=v2)]


RESOURCES: dict[str, Any] = {
    "memory": {"limit": 1 << 20, "swap": 3 << 20, "reservation": 4096},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0", "idle": 0},
    "pids": {"limit": -1},
    "blockIO": {
        "weight": 100,
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}],
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 5}],
    "rdma": {"mlx": {"hcaHandles": 3, "hcaObjects": 4}},
}


def test_resources_become_files_of_v1() -> None:
    assert written(
        {**RESOURCES, "network": {"classID": 7, "priorities": [{"name": "lo", "priority": 3}]}}, v2=False
    ) == [
        "cpu.shares=1024",
        "cpu.cfs_period_us=100000",
        "cpu.cfs_quota_us=50000",
        "cpu.idle=0",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "memory.soft_limit_in_bytes=4096",
        "memory.limit_in_bytes=1048576",
        "memory.memsw.limit_in_bytes=3145728",
        "blkio.weight=100",
        "net_cls.classid=7",
        "pids.max=max",
        "blkio.throttle.read_bps_device=8:0 1000",
        "blkio.throttle.write_iops_device=8:0 0",
        "hugetlb.2MB.limit_in_bytes=5",
        "net_prio.ifpriomap=lo 3",
        "rdma.max=mlx hca_handle=3 hca_object=4",
    ]


def test_resources_become_files_of_v2() -> None:
    assert written({**RESOURCES, "unified": {"memory.high": "1000"}}, v2=True) == [
        "cpu.weight=39",
        "cpu.max=50000 100000",
        "cpu.idle=0",
        "cpuset.cpus=0-1",
        "cpuset.mems=0",
        "memory.swap.max=2097152",
        "memory.max=1048576",
        "memory.low=4096",
        "pids.max=max",
        "io.bfq.weight=100",
        "io.max=8:0 rbps=1000",
        "io.max=8:0 wiops=max",
        "hugetlb.2MB.max=5",
        "rdma.max=mlx hca_handle=3 hca_object=4",
        "memory.high=1000",
    ]


@pytest.mark.parametrize(
    ("document", "v2", "field"),
    [
        ({"unified": {"memory.high": "1"}}, False, "unified"),
        ({"memory": {"swappiness": 0}}, True, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, True, "memory.disableOOMKiller"),
        ({"cpu": {"realtimeRuntime": 5}}, True, "cpu.realtimeRuntime"),
        ({"network": {"classID": 1}}, True, "network.classID"),
        ({"memory": {"limit": 4096, "swap": 1024}}, True, "memory.swap"),
        ({"unified": {"../x.y": "1"}}, True, "unified"),
    ],
)
def test_what_a_version_of_cgroups_does_not_have_is_named(
    document: dict[str, Any], v2: bool, field: str
) -> None:
    with pytest.raises(OciFailure, match=f"cannot set resources.{field}:"):
        resources.writes(document, v2=v2)


def test_what_is_false_or_zero_asks_for_nothing() -> None:
    nothing = {"memory": {"disableOOMKiller": False, "limit": 0, "useHierarchy": False}, "cpu": {"shares": 0}}
    assert written(nothing, v2=False) == written(nothing, v2=True) == []


def test_device_rules_hold_in_their_order() -> None:
    every, none = {"allow": True, "access": "rwm"}, {"allow": False, "access": "rwm"}
    loop = {"type": "b", "major": 7, "minor": 0, "access": "rw"}
    rule = ("b", 7, 0, "rw")
    assert resources.device_rules([]) == ([*devices.DEFAULT], [])
    assert resources.device_rules([none, {"allow": True, **loop}]) == ([*devices.DEFAULT, rule], [])
    assert resources.device_rules([{"allow": True, **loop}, none]) == ([*devices.DEFAULT], [])
    assert resources.device_rules([{"allow": True, **loop}, {"allow": False, **loop}]) == (
        [*devices.DEFAULT],
        [],
    )
    assert resources.device_rules([every, {"allow": False, **loop}]) == ([devices.EVERYTHING], [rule])
    with pytest.raises(OciFailure, match=r"devices\[1\]: it denies a part"):
        resources.device_rules([{"allow": True, **loop}, {"allow": False, "type": "b", "access": "w"}])


# ---------------------------------------------------------------- scopes


def test_a_path_of_systemd_is_a_scope_in_its_slice() -> None:
    assert scopes.name_of("machine.slice:libpod:abc", "x").path == "machine.slice/libpod-abc.scope"
    assert scopes.name_of("a-b-c.slice::abc", "x").path == "a.slice/a-b.slice/a-b-c.slice/abc.scope"
    assert scopes.name_of(":p:n", "x").path == "system.slice/p-n.scope"
    assert scopes.name_of("", "x").path == "system.slice/stead-oci-x.scope"


@pytest.mark.parametrize(
    "said", ["/a/b", "a.slice:b", "a:b:c", "a.slice:b:", "a.slice:b:c.slice", "a.slice:b/:c"]
)
def test_another_path_is_none_of_systemd(said: str) -> None:
    with pytest.raises(OciFailure, match=r"linux\.cgroupsPath"):
        scopes.name_of(said, "x")


def test_limits_that_systemd_has_become_properties() -> None:
    assert scopes.properties(RESOURCES) == [
        ("MemoryMax", str(1 << 20)),
        ("MemoryLow", "4096"),
        ("MemorySwapMax", str(2 << 20)),
        ("CPUWeight", "39"),
        ("CPUQuotaPerSecUSec", "500000"),
        ("TasksMax", str((1 << 64) - 1)),
    ]


# ---------------------------------------------------------------- sysctls, JSON


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.7/forwarding", "net/ipv4/conf/eth0.7/forwarding"),
        ("net.ipv4.conf.eth0/7.forwarding", "net/ipv4/conf/eth0.7/forwarding"),
    ],
)
def test_both_ways_of_writing_a_sysctl_are_read(key: str, path: str) -> None:
    assert sysctls.path_of(key) == path
    assert sysctls.is_own(key, {"network": None}) and not sysctls.is_own(key, {"ipc": None})


@pytest.mark.parametrize(
    "value", [{}, [], {"a": [1, -2.5, None, True, False, 'x\u00e9\n"\\'], "b": {"c": {}}}, "text", 7, None]
)
def test_json_without_the_module_is_the_same(value: object) -> None:
    assert jsontext.encode(value) == json.dumps(value).encode()
    assert jsontext.decode(b" \n" + json.dumps(value, indent=2).encode() + b"\n") == value


@pytest.mark.parametrize("text", [b"", b"{", b"{} x", b"[1,]", b"nul", b'{"a"}', b"\xff"])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        jsontext.decode(text)


# ---------------------------------------------------------------- fields


def test_an_empty_config_names_what_is_missing() -> None:
    with pytest.raises(OciFailure, match=r"config.json: ociVersion: none"):
        fields.check({})
    with pytest.raises(OciFailure, match=r"config.json: root: it is missing"):
        fields.check({"ociVersion": "1.0.2"})


@pytest.mark.parametrize("value", [7, "text", {"a": 1}])
def test_a_list_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(OciFailure, match=r"mounts: it is no list"):
        fields.check({"ociVersion": "1.0.2", "mounts": value})
