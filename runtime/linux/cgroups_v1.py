"""Effects: hierarchies of cgroup v1: files and their formats. Documentation/admin-guide/cgroup-v1/.

Controllers go by their v2 names here: "io" is blkio, "cpu" is cpu with cpuacct.
"""

from __future__ import annotations

import errno
import os

from runtime.linux.cgroups_v2 import _flat, _read, _value, apply_hugepages, hugepages, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from runtime.linux.limits import Limits

_PERIOD = 100_000
_TICKS = os.sysconf("SC_CLK_TCK")
_UNLIMITED = 1 << 62  # PAGE_COUNTER_MAX and the like
SWAPPINESS = "memory.swappiness"
_IO = (
    ("read_bps", "blkio.throttle.read_bps_device"),
    ("write_bps", "blkio.throttle.write_bps_device"),
    ("read_iops", "blkio.throttle.read_iops_device"),
    ("write_iops", "blkio.throttle.write_iops_device"),
)


class V1:
    """`mounted`: controller or "name=..." to the root of its hierarchy; several may share one."""

    KNOWN = frozenset(
        [
            "cpu",
            "cpuacct",
            "cpuset",
            "memory",
            "devices",
            "freezer",
            "blkio",
            "pids",
            "net_cls",
            "net_prio",
            "perf_event",
            "hugetlb",
            "rdma",
            "misc",
        ]
    )

    def __init__(self, mounted: dict[str, str]) -> None:
        self.mounted = mounted
        self._cpus: str | None = None
        self._swap: bool | None = None

    def has(self, controller: str) -> bool:
        return ("blkio" if controller == "io" else controller) in self.mounted

    def roots(self) -> list[str]:
        return list(dict.fromkeys(self.mounted.values()))

    def create(self, path: str) -> None:
        """A cpuset takes no process before it has CPUs and memory nodes: they are the parent's."""
        for root in self.roots():
            try:
                os.mkdir(f"{root}/{path}", 0o755)
            except OSError:  # it is there, or nothing is that it is to be in
                os.makedirs(f"{root}/{path}", 0o755, exist_ok=True)
        if "cpuset" in self.mounted:
            parent = self.mounted["cpuset"]
            for name in path.split("/"):
                child = f"{parent}/{name}"
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if not _read(f"{child}/{file}").strip():
                        write(f"{child}/{file}", _read(f"{parent}/{file}").strip())
                parent = child

    def freeze(self, path: str) -> bool:
        """Whether all processes are frozen now; to be asked again while some are on their way:
        cgroup-v1/freezer-subsystem.rst. OSError(ENOTSUP) where there is no freezer."""
        if "freezer" not in self.mounted:
            raise OSError(errno.ENOTSUP, "freeze cgroup: this host has no freezer", path)
        file = f"{self.mounted['freezer']}/{path}/freezer.state"
        write(file, "FROZEN")
        return _read(file).strip() == "FROZEN"

    def thaw(self, path: str) -> None:
        """A frozen process does not die."""
        if "freezer" in self.mounted:
            try:
                write(f"{self.mounted['freezer']}/{path}/freezer.state", "THAWED")
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise

    # ------------------------------------------------------------ limits

    def _file(self, controller: str, path: str, name: str) -> str:
        return f"{self.mounted[controller]}/{path}/{name}"

    def apply(self, path: str, controller: str, limits: Limits) -> None:
        match controller:
            case "cpu":
                quota = round(limits.cpus * _PERIOD) if limits.cpus else -1
                self._set(path, "cpu", "cpu.cfs_period_us", _PERIOD, _PERIOD)
                self._set(path, "cpu", "cpu.cfs_quota_us", quota, -1)
                self._set(path, "cpu", "cpu.shares", max(2, (limits.cpu_weight or 100) * 1024 // 100), 1024)
            case "cpuset":
                parent = os.path.dirname(self._file("cpuset", path, "."))
                inherited = _read(f"{os.path.dirname(parent)}/cpuset.cpus").strip()
                self._set(path, "cpuset", "cpuset.cpus", limits.cpuset or inherited, inherited)
            case "memory":
                self._apply_memory(path, limits)
            case "pids":
                self._set(path, "pids", "pids.max", limits.pids or "max", "max")
            case "hugetlb":
                apply_hugepages(self.mounted["hugetlb"], path, "limit_in_bytes", "-1", limits)
            case _:
                self._apply_io(path, limits)

    def _set(self, path: str, controller: str, name: str, value: int | str, default: int | str) -> None:
        """Write what differs. A file that the kernel does not have is an error only where it is needed."""
        file = self._file(controller, path, name)
        try:
            now = _read(file).strip()
        except FileNotFoundError:
            if value == default or not os.path.isdir(os.path.dirname(file)):
                if value != default:
                    raise
                return
            text = f"limit {controller}: the kernel has no {name} here"
            raise OSError(errno.ENOTSUP, text, path) from None
        if now != str(value):
            write(file, str(value))

    def _apply_memory(self, path: str, limits: Limits) -> None:
        """memory.limit <= memory.memsw always holds, so the order depends on the direction. Twice memory is
        a default: no error where this kernel does not account for swap."""
        soft = limits.memory_reservation or -1
        now = _value(os.path.dirname(self._file("memory", path, ".")), "memory.soft_limit_in_bytes", "0")
        if soft != -1 or int(now) < _UNLIMITED:
            self._set(path, "memory", "memory.soft_limit_in_bytes", soft, -1)
        steps = [
            ("memory.limit_in_bytes", limits.memory or -1),
            ("memory.memsw.limit_in_bytes", limits.memory_swap or -1),
        ]
        steps = [step for step in steps if self._differs(path, *step)]
        if len(steps) == 2 and self._grows(path, *steps[1]):
            steps.reverse()
        for name, value in steps:
            is_default = name != "memory.limit_in_bytes" and value == 2 * limits.memory
            self._set(path, "memory", name, value, value if is_default else -1)
        above = int(_value(f"{self.mounted['memory']}/{os.path.dirname(path)}", SWAPPINESS, "-1"))
        self._set(path, "memory", SWAPPINESS, above if limits.swappiness < 0 else limits.swappiness, above)

    def read_swappiness(self, path: str) -> int:
        return int(_value(f"{self.mounted['memory']}/{path}", SWAPPINESS, "-1"))

    def read_hugepages(self, path: str) -> tuple[tuple[str, int], ...]:
        return hugepages(self.mounted["hugetlb"], path, "limit_in_bytes")

    def _all_cpus(self) -> str:
        """Those that the hierarchy had when it was first asked."""
        if self._cpus is None:
            self._cpus = _read(f"{self.mounted['cpuset']}/cpuset.cpus").strip()
        return self._cpus

    def _counts_swap(self) -> bool:
        """The kernel's configuration says so: swapaccount=1."""
        if self._swap is None:
            self._swap = os.path.exists(f"{self.mounted['memory']}/memory.memsw.usage_in_bytes")
        return self._swap

    def _read_swap(self, path: str, memory: int) -> int:
        """The default where this kernel does not account for swap. `memory` as in memory.limit_in_bytes."""
        if not self._counts_swap():
            return 0 if memory >= _UNLIMITED else 2 * memory
        return max(0, self._limit(path, "memory.memsw.limit_in_bytes"))

    def _limit(self, path: str, name: str) -> int:
        """-1 for unlimited, or where there is no such file."""
        try:
            value = int(_read(self._file("memory", path, name)))
        except FileNotFoundError:
            return -1
        return -1 if value >= _UNLIMITED else value

    def _differs(self, path: str, name: str, value: int) -> bool:
        return self._limit(path, name) != value

    def _grows(self, path: str, name: str, value: int) -> bool:
        now = self._limit(path, name)
        return now != -1 and (value == -1 or value > now)

    def _apply_io(self, path: str, limits: Limits) -> None:
        weight = "blkio.weight"
        if not os.path.exists(self._file("blkio", path, weight)):
            weight = "blkio.bfq.weight"
        # 10..1000 with a default of 500 there (blkio.weight); bfq has 1..1000 and 100.
        self._set(
            path, "blkio", weight, self._to_weight(weight, limits.io_weight), self._to_weight(weight, 0)
        )
        for field, name in _IO:
            file = self._file("blkio", path, name)
            wanted = {item.device: getattr(item, field) for item in limits.io}
            if not os.path.exists(file):
                if any(wanted.values()):
                    raise OSError(errno.ENOTSUP, f"limit io: the kernel has no {name} here", path)
                continue
            now = self._per_device(path, name)
            for device in now.keys() | wanted.keys():
                if now.get(device, 0) != wanted.get(device, 0):
                    write(file, f"{device} {wanted.get(device, 0)}")

    @staticmethod
    def _to_weight(name: str, weight: int) -> int:
        if name == "blkio.weight":
            return min(1000, max(10, weight * 5)) if weight else 500
        return min(1000, weight or 100)

    def _per_device(self, path: str, name: str) -> dict[str, int]:
        text = _value(self._file("blkio", path, "").rstrip("/"), name, "")
        rows = (line.split() for line in text.splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and ":" in row[0]}

    def read_limits(self, path: str, controller: str) -> dict[str, Any]:
        match controller:
            case "cpu":
                directory = f"{self.mounted['cpu']}/{path}"
                quota = int(_value(directory, "cpu.cfs_quota_us", "-1"))
                period = int(_value(directory, "cpu.cfs_period_us", str(_PERIOD))) if quota > 0 else _PERIOD
                weight = round(int(_value(directory, "cpu.shares", "1024")) * 100 / 1024)
                cpus = quota / period if quota > 0 else 0.0
                return {"cpus": cpus, "cpu_weight": 0 if weight == 100 else weight}
            case "cpuset":
                directory = f"{self.mounted['cpuset']}/{path}"
                cpus_text = _read(f"{directory}/cpuset.cpus").strip()
                is_all = cpus_text == self._all_cpus()  # then its parent, which has no less, has all, too
                if is_all or cpus_text == _read(f"{os.path.dirname(directory)}/cpuset.cpus").strip():
                    cpus_text = ""
                return {"cpuset": cpus_text}
            case "memory":
                directory = f"{self.mounted['memory']}/{path}"
                limit = int(_read(f"{directory}/memory.limit_in_bytes"))
                return {
                    "memory": 0 if limit >= _UNLIMITED else limit,
                    "memory_reservation": max(0, self._limit(path, "memory.soft_limit_in_bytes")),
                    "memory_swap": self._read_swap(path, limit),
                }
            case "pids":
                text = _value(f"{self.mounted['pids']}/{path}", "pids.max", "max")
                return {"pids": 0 if text == "max" else int(text)}
            case _:
                return self._read_io(path)

    def _read_io(self, path: str) -> dict[str, Any]:
        from runtime.linux.limits import IoLimit

        directory = f"{self.mounted['blkio']}/{path}"
        weight = int(_value(directory, "blkio.weight", "0") or 0) // 5
        weight = weight or int(_value(directory, "blkio.bfq.weight", "100").split()[-1])
        found: dict[str, dict[str, int]] = {}
        for field, name in _IO:
            for device, value in self._per_device(path, name).items():
                found.setdefault(device, {})[field] = value
        return {
            "io_weight": 0 if weight == 100 else weight,
            "io": tuple(IoLimit(device, **values) for device, values in sorted(found.items())),
        }

    def allow_devices(self, path: str, rules: Sequence[tuple[str, int, int, str]]) -> None:
        """Deny all, then allow `rules`: (type a|b|c, major, minor, access), -1 for any."""
        deny, allow = (self._file("devices", path, f"devices.{verb}") for verb in ("deny", "allow"))
        if any(rule[0] == "a" for rule in rules):
            write(allow, "a")
            return
        write(deny, "a")
        texts = []
        for kind, major, minor, access in rules:
            numbers = ":".join("*" if number < 0 else str(number) for number in (major, minor))
            texts.append(f"{kind} {numbers} {access}")
        write(allow, *texts)

    # ------------------------------------------------------------ looking

    def stats(self, path: str, controller: str) -> dict[str, Any]:
        match controller:
            case "cpu":
                return self._cpu(path)
            case "memory":
                directory = f"{self.mounted['memory']}/{path}"
                flat = _flat(_read(f"{directory}/memory.stat"))
                usage = int(_read(f"{directory}/memory.usage_in_bytes"))
                return {
                    "memory_usage": usage,
                    "memory_working_set": max(0, usage - flat.get("total_inactive_file", 0)),
                    "memory_rss": flat.get("total_rss", 0),
                    "memory_cache": flat.get("total_cache", 0),
                    "memory_swap": flat.get("total_swap", 0),
                    "memory_limit": max(0, self._limit(path, "memory.limit_in_bytes")),
                }
            case "pids":
                return {"pids": int(_value(f"{self.mounted['pids']}/{path}", "pids.current", "0"))}
            case _:
                read_bytes, write_bytes = self._io(path, "blkio.throttle.io_service_bytes_recursive")
                reads, writes = self._io(path, "blkio.throttle.io_serviced_recursive")
                return {
                    "io_read_bytes": read_bytes,
                    "io_write_bytes": write_bytes,
                    "io_reads": reads,
                    "io_writes": writes,
                }

    def _cpu(self, path: str) -> dict[str, Any]:
        throttled = _flat(_value(f"{self.mounted['cpu']}/{path}", "cpu.stat", "")).get("throttled_time", 0)
        fields: dict[str, Any] = {"cpu_throttled_seconds": throttled / 1e9}
        if "cpuacct" in self.mounted:
            directory = f"{self.mounted['cpuacct']}/{path}"
            used = _flat(_read(f"{directory}/cpuacct.stat"))
            fields["cpu_seconds"] = int(_read(f"{directory}/cpuacct.usage")) / 1e9
            fields["cpu_user_seconds"] = used.get("user", 0) / _TICKS
            fields["cpu_system_seconds"] = used.get("system", 0) / _TICKS
        return fields

    def _io(self, path: str, name: str) -> tuple[int, int]:
        """Sums over devices of lines "8:0 Read 4096"."""
        directory = f"{self.mounted['blkio']}/{path}"
        text = _value(directory, name, "") or _value(directory, name.removesuffix("_recursive"), "")
        read = write = 0
        for line in text.splitlines():
            words = line.split()
            if len(words) == 3 and words[1] == "Read":
                read += int(words[2])
            elif len(words) == 3 and words[1] == "Write":
                write += int(words[2])
        return read, write

    def oom_kills(self, path: str) -> int:
        """memory.oom_control counts for one cgroup only: sum the tree."""
        return sum(
            _flat(_value(directory, "memory.oom_control", "")).get("oom_kill", 0)
            for directory in _walk(f"{self.mounted['memory']}/{path}")
        )


def _walk(directory: str) -> Iterator[str]:
    yield directory
    if os.stat(directory).st_nlink > 2:
        with os.scandir(directory) as entries:
            names = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in names:
            yield from _walk(name)
