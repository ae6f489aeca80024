"""The low-level runtime's decisions: its command line, resources as files, JSON without `json`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.linux import devices, jsontext
from runtime.oci import arguments, documents, fields, kinds, resources, scopes
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


@pytest.mark.parametrize(
    ("text", "size"),
    [("64m", 64 << 20), ("64MiB", 64 << 20), ("64 MB", 64 << 20), ("1.5g", 3 << 29), ("7b", 7), ("-1", -1)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert arguments.parse(["update", "--memory", text, "a"]).options == {"memory": size}


def test_a_short_f_is_the_force_of_one_command_and_the_format_of_another() -> None:
    assert arguments.parse(["delete", "-f", "c"]).options == {"force": True}
    assert arguments.parse(["list", "-f", "json"]).options == {"format": "json"}


def test_options_may_follow_words_but_not_those_of_a_program() -> None:
    call = arguments.parse(["delete", "a", "--force"])
    assert (call.options, call.words) == ({"force": True}, ["a"])
    call = arguments.parse(["run", "-d", "a", "--bundle", "/b"])
    assert (call.options, call.words) == ({"detach": True, "bundle": "/b"}, ["a"])
    call = arguments.parse(["kill", "--all", "--", "-a", "9"])
    assert (call.options, call.words) == ({"all": True}, ["-a", "9"])
    call = arguments.parse(["exec", "-t", "a", "ls", "-d", "--", "x"])
    assert (call.options, call.words) == ({"tty": True}, ["a", "ls", "-d", "--", "x"])
    assert arguments.parse(["ps", "a", "-ef"]).words == ["a", "-ef"]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["create"], "takes 1 arguments, and 0 were given"),
        (["create", "a", "b"], "takes 1 arguments, and 2 were given"),
        (["kill"], "takes 1 to 2 arguments"),
        (["create", "--colour", "a"], "unknown option --colour"),
        (["create", "--bundle"], "option --bundle needs a value"),
        (["create", "--preserve-fds", "x", "a"], "'x' is no number"),
        (["update", "--memory", "x", "a"], "'x' is no size"),
        (["update", "--memory", "-2", "a"], "'-2' is no size"),
        (["update", "--memory", "1.5", "a"], "'1.5' is no size"),
        (["update", "--memory", "9999999p", "a"], "'9999999p' is no size"),
        (["update", "--memory", "m", "a"], "'m' is no size"),
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
    "key",
    [
        "net/../vm/swappiness",
        "net.//.vm.x",
        "net/./x",
        "net//x",
        "net..x",
        "net/",
        "fs/mqueue/../x",
        "",
    ],
)
def test_a_sysctl_that_leads_elsewhere_is_nobodys_own(key: str) -> None:
    assert not sysctls.is_own(key, {"network": None, "ipc": None, "uts": None})


@pytest.mark.parametrize(
    "value", [{}, [], {"a": [1, -2.5, None, True, False, 'x\u00e9\n"\\'], "b": {"c": {}}}, "text", 7, None]
)
def test_json_without_the_module_is_the_same(value: object) -> None:
    assert jsontext.encode(value) == json.dumps(value).encode()
    assert jsontext.decode(b" \n" + json.dumps(value, indent=2).encode() + b"\n") == value


@pytest.mark.parametrize("text", [b"[" * 100000, b"", b"{", b"{} x", b"[1,]", b"nul", b'{"a"}', b"\xff"])
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
    with pytest.raises(OciFailure, match=r"mounts: a list is expected"):
        fields.check({"ociVersion": "1.0.2", "mounts": value})


def leaves(known: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to each field that holds something, with 0 for the first of a list."""
    if isinstance(known, kinds.Kind):
        yield path
    elif isinstance(known, list):
        yield from leaves(known[0], (*path, 0))
    elif isinstance(known, dict):
        for key, inner in known.items():
            yield from leaves(inner, (*path, key))


LEAVES = list(leaves(fields.FIELDS))


def config(path: tuple[str | int, ...], value: object) -> Any:
    """A document that has this one field."""
    for key in reversed(path):
        value = [value] if key == 0 else {key: value}
    return value


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_each_field_names_itself_where_its_value_is_of_another_type(path: tuple[str | int, ...]) -> None:
    name = ".".join(str(key) for key in path).replace(".0", "[0]")
    for value in (1.5, {"a": 1}, [1.5], -(1 << 63) - 1):
        with pytest.raises(OciFailure, match=re.escape(f"config.json: {name}: ") + ".* expected"):
            fields.check(config(path, value))


def whole() -> dict[str, Any]:
    return documents.new_config()


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("linux.maskedPaths", "/proc/kcore", "a list of strings is expected"),
        (
            "linux.seccomp",
            {"defaultAction": "A", "syscalls": [{"names": "mount", "action": "B"}]},
            "a list of",
        ),
        ("process.capabilities.bounding", "CAP_KILL", "a list of strings is expected"),
        ("process.noNewPrivileges", "yes", "true or false is expected"),
        ("process.noNewPrivileges", 1, "true or false is expected"),
        ("process.user.uid", True, "a number from 0 to 2147483647 is expected"),
        ("process.user.uid", -1, "a number from 0 to 2147483647 is expected"),
        ("process.user.gid", 4294967295, "a number from 0 to 2147483647 is expected"),
        ("process.user.additionalGids", [5, 4294967295], "a list of numbers from 0 to 2147483647"),
        ("process.env", ["A=1", 1], "a list of strings is expected"),
        ("process.env", ["=x"], "'=x': NAME=VALUE is expected"),
        ("process.env", ["x"], "'x': NAME=VALUE is expected"),
        ("process.env", ["x\0=1"], "it has a zero byte"),
        ("linux.maskedPaths", ["/proc/kcore\0x"], "it has a zero byte"),
        (
            "process.rlimits",
            [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}],
            "RLIMIT_CORE: the soft limit of 2",
        ),
        ("process.execCPUAffinity", {"initial": "0-99999999999"}, "99999999999: no list of CPUs"),
        ("process.execCPUAffinity", {"final": "5-2"}, "5-2: no list of CPUs"),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "8: it is none of 0 to 7"),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_RT", "priority": -1}, "-1: it is none of 0 to 7"),
        ("linux.personality", {"flags": []}, "linux.personality.domain: none: it is neither"),
        ("process.user.umask", 1 << 40, "a number from 0 to 4294967295 is expected"),
        ("linux.resources.memory.limit", "5m", "a whole number is expected"),
        ("linux.resources.pids.limit", 5.0, "a whole number is expected"),
        ("hostname", 5, "a string is expected"),
        ("annotations", [], "an object is expected"),
        ("annotations", {"a": 5}, "annotations.a: a string is expected"),
        ("linux.timeOffsets", {"monotonic": 5}, "monotonic: an object is expected"),
        ("linux.namespaces", [{}], r"namespaces\[0\].type: it is missing"),
        ("linux.namespaces", [None], r"namespaces\[0\]: an object is expected"),
        ("process.rlimits", [{}], r"rlimits\[0\].type: it is missing"),
        ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 1}], r"rlimits\[0\].hard: it is missing"),
        ("hooks.prestart", [{"args": ["a"]}], r"prestart\[0\].path: it is missing"),
        ("mounts", [{"type": "tmpfs"}], r"mounts\[0\].destination: it is missing"),
        ("mounts", [{"destination": "/x", "options": ["rbind"]}], r"mounts\[0\].source: it is missing"),
        ("mounts", [{"destination": "/x/..", "type": "tmpfs"}], "nothing is mounted over the root"),
        ("linux.devices", [{"path": "/dev/x"}], r"devices\[0\].type: it is missing"),
        ("linux.devices", [{"type": "q", "path": "/dev/x"}], r"devices\[0\].type: q: it is none of"),
        ("linux.resources.devices", [{"type": "q"}], r"devices\[0\].type: q: it is none of"),
        ("linux.resources.devices", [{"access": "rx"}], r"devices\[0\].access: rx"),
    ],
)
def test_what_cannot_be_is_named(path: str, value: object, text: str) -> None:
    document = whole()
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    with pytest.raises(OciFailure, match=f"config.json: (?={path}).*{text}"):
        fields.check(document)


def test_null_is_as_good_as_nothing() -> None:
    document = whole()
    for path in LEAVES:
        place: Any = document
        for at, key in enumerate(path):
            if key == 0 or isinstance(place, list):
                break
            if at == len(path) - 1:
                place.setdefault(str(key), None)
            else:
                place = place.setdefault(str(key), [] if path[at + 1] == 0 else {})
    del document["linux"]["seccomp"], document["linux"]["timeOffsets"]  # those that have to hold something
    assert "domainname" in document and document["domainname"] is None
    assert fields.check(document) == []
    assert "domainname" not in document and "umask" not in document["process"]["user"]


def test_resources_and_processes_by_themselves_are_checked_as_well() -> None:
    with pytest.raises(OciFailure, match=r"use /x: resources.memory.limit: a whole number is expected"):
        fields.check_resources({"memory": {"limit": "5m"}}, "/x")
    with pytest.raises(OciFailure, match=r"cannot use /x: resources: an object is expected"):
        fields.check_resources([], "/x")
    with pytest.raises(OciFailure, match=r"cannot use /p: process.user.uid: a number from 0"):
        fields.check_process({"args": ["a"], "cwd": "/", "user": {"uid": -1}}, "/p")


ANYTHING: tuple[Any, ...] = (
    *(None, "", "x", 0, -1, 1 << 31, 1 << 70, 1.5, True, "\0", "\ud800"),
    *([], {}, [None], [[]], [{}], ["x"], {"a": None}, {"a": "1"}, {"a": 1}, {"": "x"}),
)


def places(known: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to each field, be it a whole object."""
    if path:
        yield path
    if isinstance(known, list):
        yield from places(known[0], (*path, 0))
    elif isinstance(known, dict):
        for key, inner in known.items():
            yield from places(inner, (*path, key))


def test_whatever_a_field_holds_is_taken_or_refused_and_never_stumbled_over() -> None:
    for path in places(fields.FIELDS):
        for value in ANYTHING:
            document = whole()
            place: Any = document
            for key, following in itertools.pairwise(path):
                empty: Any = [] if following == 0 else {}
                if key == 0:
                    place[:] = place[:1] or [empty]
                    place = place[0]
                else:
                    place = place.setdefault(key, empty)
            if path[-1] == 0:
                place[:] = [value]
            else:
                place[path[-1]] = value
            try:
                fields.check(document)
                linux = fields.complete(document, "/bundle")["linux"]
                resources.device_rules((linux.get("resources") or {}).get("devices") or [])
                resources.writes(linux.get("resources") or {}, v2=False)
                resources.writes(linux.get("resources") or {}, v2=True)
            except OciFailure:
                continue
