"""Effects: the unified hierarchy (cgroup v2): files and their formats.

Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.linux.limits import Limits

_PERIOD = 100_000
_IO = (("read_bps", "rbps"), ("write_bps", "wbps"), ("read_iops", "riops"), ("write_iops", "wiops"))


class V2:
    """The hierarchy mounted at `root`. It has what its root's cgroup.controllers lists."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.controllers = frozenset(_read(f"{root}/cgroup.controllers").split())

    def has(self, controller: str) -> bool:
        return controller in self.controllers

    def create(self, path: str) -> None:
        """Make the directories, and hand every controller down: each parent must enable it for its
        children.
        """
        directory = self.root
        for name in path.split("/"):
            self._delegate(directory)
            directory = f"{directory}/{name}"
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                pass
        self.freeze(path, False)  # whoever froze it to kill may have been killed

    def _delegate(self, directory: str) -> None:
        if not self.controllers:
            return
        try:
            there = set(_read(f"{directory}/cgroup.controllers").split())
            missing = there - set(_read(f"{directory}/cgroup.subtree_control").split())
        except FileNotFoundError:
            return
        for controller in sorted(missing & {"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}):
            try:
                write(f"{directory}/cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                # Processes in a cgroup that is not ours, or real-time processes (cpu): the limit that needs
                # it will say so.
                if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.ENOTSUP):
                    raise

    def freeze(self, path: str, frozen: bool) -> None:
        """No process of the tree runs, so none forks; SIGKILL ends frozen ones (Linux 5.2). Nothing where
        there is no such cgroup."""
        try:
            write(f"{self.root}/{path}/cgroup.freeze", str(int(frozen)))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def is_frozen(self, path: str) -> bool:
        """Whether all processes of the tree have stopped."""
        return "frozen 1" in _read(f"{self.root}/{path}/cgroup.events").splitlines()

    # ------------------------------------------------------------ limits

    def apply(self, path: str, controller: str, limits: Limits) -> None:
        if controller == "hugetlb":
            apply_hugepages(self.root, path, "max", "max", limits)
            return
        if controller == "memory" and limits.swappiness >= 0:
            raise OSError(
                errno.ENOTSUP, "limit memory: cgroup v2 has no swappiness of a container's own", path
            )
        for name, value, default in self._wanted(path, controller, limits):
            file = f"{self.root}/{path}/{name}"
            try:
                now = _read(file).strip()
            except FileNotFoundError:
                if value == default:
                    continue
                text = f"limit {controller}: the kernel has no {name} here"
                raise OSError(errno.ENOTSUP, text, path) from None
            if now != value:
                write(file, value or "\n")

    def _wanted(self, path: str, controller: str, limits: Limits) -> list[tuple[str, str, str]]:
        """(file, text, text for no limit)."""
        match controller:
            case "cpu":
                quota = f"{round(limits.cpus * _PERIOD)} {_PERIOD}" if limits.cpus else f"max {_PERIOD}"
                weight = str(limits.cpu_weight or 100)
                return [("cpu.max", quota, f"max {_PERIOD}"), ("cpu.weight", weight, "100")]
            case "cpuset":
                return [("cpuset.cpus", limits.cpuset, "")]
            case "memory":
                swap = str(limits.memory_swap - limits.memory) if limits.memory_swap else "max"
                return [
                    ("memory.max", str(limits.memory or "max"), "max"),
                    ("memory.low", str(limits.memory_reservation), "0"),
                    # twice the memory is a default: no error where this kernel does not account for swap
                    ("memory.swap.max", swap, swap if limits.memory_swap == 2 * limits.memory else "max"),
                ]
            case "pids":
                return [("pids.max", str(limits.pids or "max"), "max")]
            case _:
                return self._wanted_io(path, limits)

    def _wanted_io(self, path: str, limits: Limits) -> list[tuple[str, str, str]]:
        name = "io.weight"
        if not os.path.exists(f"{self.root}/{path}/{name}"):
            bfq = os.path.exists(f"{self.root}/{path}/io.bfq.weight")
            name = "io.bfq.weight" if bfq else name
        weight = f"default {limits.io_weight or 100}"
        result = [(name, weight, "default 100")]
        lifted = "rbps=max wbps=max riops=max wiops=max"
        wanted = {item.device: item for item in limits.io}
        for device in self._io_limits(path):
            if device not in wanted:
                result.append(("io.max", f"{device} {lifted}", ""))
        for device, item in wanted.items():
            words = [f"{key}={getattr(item, field) or 'max'}" for field, key in _IO]
            result.append(("io.max", f"{device} {' '.join(words)}", ""))
        return result

    def read_hugepages(self, path: str) -> tuple[tuple[str, int], ...]:
        return hugepages(self.root, path, "max")

    def _io_limits(self, path: str) -> dict[str, dict[str, int]]:
        try:
            text = _read(f"{self.root}/{path}/io.max")
        except FileNotFoundError:
            return {}
        found = {}
        for line in text.splitlines():
            device, *words = line.split()
            values = dict(word.split("=", 1) for word in words)
            found[device] = {f: 0 if values[k] == "max" else int(values[k]) for f, k in _IO if k in values}
        return {device: limit for device, limit in found.items() if any(limit.values())}

    def read_limits(self, path: str, controller: str) -> dict[str, Any]:
        directory = f"{self.root}/{path}"
        match controller:
            case "cpu":
                quota, period = _value(directory, "cpu.max", "max 100000").split()
                weight = int(_value(directory, "cpu.weight", "100"))
                cpus = 0.0 if quota == "max" else int(quota) / int(period)
                return {"cpus": cpus, "cpu_weight": 0 if weight == 100 else weight}
            case "cpuset":
                cpus_text = _value(directory, "cpuset.cpus", "")
                online = _read("/sys/devices/system/cpu/online").strip()
                return {"cpuset": "" if cpus_text == online else cpus_text}
            case "memory":
                memory = _number(_value(directory, "memory.max", "max"))
                swap = _value(directory, "memory.swap.max", str(memory) if memory else "max")
                return {
                    "memory": memory,
                    "memory_reservation": _number(_value(directory, "memory.low", "0")),
                    "memory_swap": 0 if swap == "max" else memory + int(swap),
                }
            case "pids":
                return {"pids": _number(_value(directory, "pids.max", "max"))}
            case _:
                return self._read_io(path, directory)

    def _read_io(self, path: str, directory: str) -> dict[str, Any]:
        from runtime.linux.limits import IoLimit

        text = _value(directory, "io.weight", "") or _value(directory, "io.bfq.weight", "")
        weight = int(text.split()[1]) if text.startswith("default ") else 100
        limits = sorted(self._io_limits(path).items())
        return {
            "io_weight": 0 if weight == 100 else weight,
            "io": tuple(IoLimit(device, **values) for device, values in limits),
        }

    # ------------------------------------------------------------ looking

    def stats(self, path: str, controller: str) -> dict[str, Any]:
        directory = f"{self.root}/{path}"
        match controller:
            case "cpu":
                flat = _flat(_read(f"{directory}/cpu.stat"))
                return {
                    "cpu_seconds": flat.get("usage_usec", 0) / 1e6,
                    "cpu_user_seconds": flat.get("user_usec", 0) / 1e6,
                    "cpu_system_seconds": flat.get("system_usec", 0) / 1e6,
                    "cpu_throttled_seconds": flat.get("throttled_usec", 0) / 1e6,
                }
            case "memory":
                flat = _flat(_read(f"{directory}/memory.stat"))
                usage = int(_read(f"{directory}/memory.current"))
                return {
                    "memory_usage": usage,
                    "memory_working_set": max(0, usage - flat.get("inactive_file", 0)),
                    "memory_rss": flat.get("anon", 0),
                    "memory_cache": flat.get("file", 0),
                    "memory_swap": int(_value(directory, "memory.swap.current", "0")),
                    "memory_limit": _number(_value(directory, "memory.max", "max")),
                }
            case "pids":
                return {"pids": int(_value(directory, "pids.current", "0"))}
            case _:
                total = {"rbytes": 0, "wbytes": 0, "rios": 0, "wios": 0}
                for line in _value(directory, "io.stat", "").splitlines():
                    for word in line.split()[1:]:
                        key, _, value = word.partition("=")
                        if key in total:
                            total[key] += int(value)
                return {
                    "io_read_bytes": total["rbytes"],
                    "io_write_bytes": total["wbytes"],
                    "io_reads": total["rios"],
                    "io_writes": total["wios"],
                }

    def oom_kills(self, path: str) -> int:
        return _flat(_value(f"{self.root}/{path}", "memory.events", "")).get("oom_kill", 0)


def apply_hugepages(root: str, path: str, file: str, unlimited: str, limits: Limits) -> None:
    """Limits by the size of a page: hugetlb.2MB.max, in v1 hugetlb.2MB.limit_in_bytes. Pages that the limits
    do not name are lifted. Documentation/admin-guide/cgroup-v1/hugetlb.rst."""
    wanted, now = dict(limits.hugepages), dict(hugepages(root, path, file))
    for page in wanted.keys() | now.keys():
        name = f"{root}/{path}/hugetlb.{page}.{file}"
        if page in wanted and not os.path.exists(name):
            sizes = sorted(
                one.split(".")[1] for one in os.listdir(f"{root}/{path}") if one.endswith(f"B.{file}")
            )
            text = (
                f"limit hugepages: this machine has pages of {' and '.join(sizes) or 'no size'}, not {page}"
            )
            raise OSError(errno.ENOTSUP, text, path)
        if now.get(page) != wanted.get(page):
            write(name, str(wanted[page]) if page in wanted else unlimited)


def hugepages(root: str, path: str, file: str) -> tuple[tuple[str, int], ...]:
    """(size of a page, bytes) of each limit; the kernel's unlimited is left out."""
    found = []
    try:
        names = os.listdir(f"{root}/{path}")
    except FileNotFoundError:
        return ()
    for name in sorted(names):
        kind, _, rest = name.partition(".")
        page, _, what = rest.partition(".")
        if kind != "hugetlb" or what != file:
            continue
        value = _number(_read(f"{root}/{path}/{name}").strip())
        if 0 < value < 1 << 62 or (value == 0 and _read(f"{root}/{path}/{name}").strip() == "0"):
            found.append((page, value))
    return tuple(found)


def _read(path: str) -> str:
    """FileNotFoundError also where the cgroup is being removed: its files are seen for a moment longer, and
    answer ENODEV, to open(2) and to read(2)."""
    fd = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return os.read(fd, 65536).decode()
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    finally:
        if fd >= 0:
            os.close(fd)


def write(path: str, *texts: str) -> None:
    """Each by a write(2) of its own."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    text = ""
    try:
        for text in texts:
            os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {text!r}: {error.strerror}", path) from None
    finally:
        os.close(fd)


def _value(directory: str, name: str, default: str) -> str:
    """A file of a cgroup that is there; `default` where this kernel does not have the file."""
    try:
        return _read(f"{directory}/{name}").strip()
    except FileNotFoundError:
        if not os.path.isdir(directory):
            raise
        return default


def _number(text: str) -> int:
    return 0 if text == "max" else int(text)


def _flat(text: str) -> dict[str, int]:
    """A flat keyed file: one "key value" a line."""
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))
