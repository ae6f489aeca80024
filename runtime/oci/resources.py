"""Decisions: `linux.resources` as files of control groups, of either version.

OCI runtime-spec, config-linux.md (Control groups); Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.
Values of v1 become those of v2 as runc and crun have it.
"""

from __future__ import annotations

from collections import namedtuple

from runtime.linux import devices
from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    Resources = dict[str, Any]

    class Write(NamedTuple):
        """`controller` by its v1 name, empty for the core of v2; `field` of the config that asks for it."""

        controller: str
        file: str
        value: str
        field: str
else:
    Write = namedtuple("Write", "controller file value field")

#: (field, v1 controller, v1 file)
_V1_PLAIN = (
    ("cpu.realtimePeriod", "cpu", "cpu.rt_period_us"),
    ("cpu.realtimeRuntime", "cpu", "cpu.rt_runtime_us"),
    ("cpu.shares", "cpu", "cpu.shares"),
    ("cpu.period", "cpu", "cpu.cfs_period_us"),
    ("cpu.quota", "cpu", "cpu.cfs_quota_us"),
    ("cpu.burst", "cpu", "cpu.cfs_burst_us"),
    ("cpu.idle", "cpu", "cpu.idle"),
    ("cpu.cpus", "cpuset", "cpuset.cpus"),
    ("cpu.mems", "cpuset", "cpuset.mems"),
    ("memory.useHierarchy", "memory", "memory.use_hierarchy"),
    ("memory.reservation", "memory", "memory.soft_limit_in_bytes"),
    ("memory.limit", "memory", "memory.limit_in_bytes"),
    ("memory.swap", "memory", "memory.memsw.limit_in_bytes"),
    ("memory.kernel", "memory", "memory.kmem.limit_in_bytes"),
    ("memory.kernelTCP", "memory", "memory.kmem.tcp.limit_in_bytes"),
    ("memory.swappiness", "memory", "memory.swappiness"),
    ("memory.disableOOMKiller", "memory", "memory.oom_control"),
    ("blockIO.weight", "blkio", "blkio.weight"),
    ("blockIO.leafWeight", "blkio", "blkio.leaf_weight"),
    ("network.classID", "net_cls", "net_cls.classid"),
)
_RATES = (
    ("throttleReadBpsDevice", "read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "write_iops_device", "wiops"),
)
#: Of fields where 0 is a value of its own; elsewhere it means: none given.
_ZERO_COUNTS = frozenset(
    ("memory.swappiness", "cpu.idle", "cpu.burst", "cpu.realtimeRuntime", "network.classID")
)
_ONLY_V1 = (
    "memory.kernel",
    "memory.kernelTCP",
    "memory.swappiness",
    "memory.disableOOMKiller",
    "cpu.realtimeRuntime",
    "cpu.realtimePeriod",
    "network.classID",
    "network.priorities",
    "blockIO.leafWeight",
)


def value_of(resources: Resources, field: str) -> Any:
    """None where nothing is asked for."""
    group, _, key = field.partition(".")
    value = (resources.get(group) or {}).get(key)
    if value is None or value == "" or value is False or value == []:
        return None
    if value == 0 and value is not True and field not in _ZERO_COUNTS:
        return None
    return value


def writes(resources: Resources, *, v2: bool) -> list[Write]:
    """In the order in which they are to be made. OciFailure names what this version of cgroups has not."""
    return _writes_v2(resources) if v2 else _writes_v1(resources)


# ---------------------------------------------------------------- v1


def _writes_v1(resources: Resources) -> list[Write]:
    if resources.get("unified"):
        raise OciFailure("cannot set resources.unified: this host's controllers are of cgroup v1")
    made = []
    for field, controller, file in _V1_PLAIN:
        value = value_of(resources, field)
        if value is not None:
            made.append(Write(controller, file, str(int(value) if value is True else value), field))
    limit = (resources.get("pids") or {}).get("limit")
    if limit:
        made.append(Write("pids", "pids.max", _or_max(limit), "pids.limit"))
    made += _block_v1(resources.get("blockIO") or {})
    for item in resources.get("hugepageLimits") or ():
        file = f"hugetlb.{item['pageSize']}.limit_in_bytes"
        made.append(Write("hugetlb", file, str(item["limit"]), "hugepageLimits"))
    for item in (resources.get("network") or {}).get("priorities") or ():
        line = f"{item['name']} {item['priority']}"
        made.append(Write("net_prio", "net_prio.ifpriomap", line, "network.priorities"))
    return made + _rdma(resources)


def _block_v1(block: Resources) -> list[Write]:
    made = []
    for item in block.get("weightDevice") or ():
        device = f"{item['major']}:{item['minor']}"
        for key, file in (("weight", "blkio.weight_device"), ("leafWeight", "blkio.leaf_weight_device")):
            if item.get(key):
                made.append(Write("blkio", file, f"{device} {item[key]}", "blockIO.weightDevice"))
    for key, file, _ in _RATES:
        for item in block.get(key) or ():
            line = f"{item['major']}:{item['minor']} {item['rate']}"
            made.append(Write("blkio", f"blkio.throttle.{file}", line, f"blockIO.{key}"))
    return made


# ---------------------------------------------------------------- v2


def _writes_v2(resources: Resources) -> list[Write]:
    for field in _ONLY_V1:
        if value_of(resources, field) is not None:
            raise OciFailure(f"cannot set resources.{field}: cgroup v2 has no such thing")
    made = [*_cpu_v2(resources.get("cpu") or {}), *_memory_v2(resources.get("memory") or {})]
    limit = (resources.get("pids") or {}).get("limit")
    if limit:
        made.append(Write("pids", "pids.max", _or_max(limit), "pids.limit"))
    made += _block_v2(resources.get("blockIO") or {})
    for item in resources.get("hugepageLimits") or ():
        made.append(Write("hugetlb", f"hugetlb.{item['pageSize']}.max", str(item["limit"]), "hugepageLimits"))
    made += _rdma(resources)
    for file, value in (resources.get("unified") or {}).items():
        if "/" in file or "." not in file:
            raise OciFailure(f"cannot set resources.unified: {file}: no file of a control group")
        made += [
            Write(file.partition(".")[0], file, line, "unified") for line in str(value).split("\n") if line
        ]
    return made


def _cpu_v2(cpu: Resources) -> list[Write]:
    made = []
    if cpu.get("shares"):
        made.append(Write("cpu", "cpu.weight", str(weight_of(int(cpu["shares"]))), "cpu.shares"))
    if cpu.get("quota") or cpu.get("period"):
        quota = int(cpu.get("quota") or 0)
        line = f"{quota if quota > 0 else 'max'} {cpu.get('period') or 100000}"
        made.append(Write("cpu", "cpu.max", line, "cpu.quota"))
    if cpu.get("burst") is not None:
        made.append(Write("cpu", "cpu.max.burst", str(cpu["burst"]), "cpu.burst"))
    if cpu.get("idle") is not None:
        made.append(Write("cpu", "cpu.idle", str(cpu["idle"]), "cpu.idle"))
    for key in ("cpus", "mems"):
        if cpu.get(key):
            made.append(Write("cpuset", f"cpuset.{key}", str(cpu[key]), f"cpu.{key}"))
    return made


def weight_of(shares: int) -> int:
    """2..262144 with 1024 in the middle, as 1..10000."""
    return 1 + (min(262144, max(2, shares)) - 2) * 9999 // 262142


def _memory_v2(memory: Resources) -> list[Write]:
    made = []
    limit, swap = memory.get("limit"), memory.get("swap")
    if swap:
        only = "max" if swap < 0 else str(swap - (limit or 0)) if limit and limit > 0 else None
        if only is None or (only != "max" and int(only) < 0):
            raise OciFailure(
                "cannot set resources.memory.swap: it is memory and swap, and less than the limit"
            )
        made.append(Write("memory", "memory.swap.max", only, "memory.swap"))
    if limit:
        made.append(Write("memory", "memory.max", _or_max(limit), "memory.limit"))
    if memory.get("reservation"):
        made.append(Write("memory", "memory.low", _or_max(memory["reservation"]), "memory.reservation"))
    return made


def _block_v2(block: Resources) -> list[Write]:
    made = []
    if block.get("weight"):
        made.append(Write("blkio", "io.bfq.weight", str(block["weight"]), "blockIO.weight"))
    for item in block.get("weightDevice") or ():
        line = f"{item['major']}:{item['minor']} {item.get('weight')}"
        made.append(Write("blkio", "io.bfq.weight", line, "blockIO.weightDevice"))
    for key, _, word in _RATES:
        for item in block.get(key) or ():
            line = f"{item['major']}:{item['minor']} {word}={item['rate'] or 'max'}"
            made.append(Write("blkio", "io.max", line, f"blockIO.{key}"))
    return made


def _rdma(resources: Resources) -> list[Write]:
    made = []
    for device, limits in (resources.get("rdma") or {}).items():
        words = [
            f"{name}={limits[key]}"
            for key, name in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(key) is not None
        ]
        made.append(Write("rdma", "rdma.max", " ".join([device, *words]), "rdma"))
    return made


def _or_max(value: int) -> str:
    return str(value) if int(value) > 0 else "max"


# ---------------------------------------------------------------- devices


def device_rules(rules: list[dict[str, Any]]) -> tuple[list[devices.Rule], list[devices.Rule]]:
    """What is allowed, and what of it is denied again, which is nothing but where all was allowed before.
    Every container has the default ones. Rules come in order, and the first says what is so for the others:
    before it nothing is allowed."""
    allowed: list[devices.Rule] = []
    denied: list[devices.Rule] = []
    for at, item in enumerate(rules):
        rule = _rule(item)
        everything = rule[1:3] == (devices.ANY, devices.ANY) and str(item.get("type") or "a") == "a"
        if everything and set(rule[3]) >= set("rwm"):
            allowed, denied = [devices.EVERYTHING] if item.get("allow") else [], []
        elif devices.EVERYTHING in allowed:
            denied = (
                [*denied, rule] if not item.get("allow") else [other for other in denied if other != rule]
            )
        elif item.get("allow"):
            allowed.append(rule)
        elif rule in allowed:
            allowed.remove(rule)
        elif any(_meet(rule, other) for other in allowed):
            text = f"devices[{at}]: it denies a part of what is allowed before it"
            raise OciFailure(f"cannot set resources.{text}")
    if devices.EVERYTHING in allowed:
        return [devices.EVERYTHING], denied
    return [*devices.DEFAULT, *allowed], []


def _rule(item: dict[str, Any]) -> devices.Rule:
    major, minor = (devices.ANY if item.get(key) is None else int(item[key]) for key in ("major", "minor"))
    return str(item.get("type") or "a"), major, minor, str(item.get("access") or "rwm")


def _meet(one: devices.Rule, other: devices.Rule) -> bool:
    kinds = one[0] == other[0] or "a" in (one[0], other[0])
    numbers = all(
        first == second or devices.ANY in (first, second)
        for first, second in zip(one[1:3], other[1:3], strict=True)
    )
    return kinds and numbers and bool(set(one[3]) & set(other[3]))
