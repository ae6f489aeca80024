"""Decisions: the short and long forms in which people may write one field, and the value that they mean.

Each shape is a type for a pydantic field: a validator that raises Mistake, and the JSON schema of what is
accepted. All forms are Compose's (compose-spec, 05-services.md) unless the docstring says otherwise.
"""

from __future__ import annotations

import posixpath
import re
import shlex
import signal
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from specs.problems import nearest
from specs.values import (
    NAME,
    ByteSize,
    Cpus,
    Duration,
    ImageRef,
    MountPoint,
    PortBinding,
    clean_path,
    parse_ip,
    parse_port_range,
    parse_ports,
    parse_protocol,
    parse_target,
)
from specs.written import WrittenInt, text_of


class Mistake(ValueError):
    """What a person should change. `path` leads from the field to the wrong item."""

    def __init__(self, text: str, hint: str = "", path: tuple[str | int, ...] = ()) -> None:
        super().__init__(text)
        self.hint, self.path = hint, path


class Mistakes(ValueError):
    """Several at once."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


NOT_YET = "not supported yet"

#: Text in which a variable stands; what it is replaced with is not known to an editor.
VARIABLE = {"type": "string", "pattern": r"\$"}
_FLAG_TEXT = {"type": "string", "pattern": r"^([Tt]rue|TRUE|[Ff]alse|FALSE)$|\$"}
_TEXT_SCHEMA: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_LIST_SCHEMA: dict[str, Any] = {"type": "array", "items": _TEXT_SCHEMA}
_ONE_OR_LIST: dict[str, Any] = {"anyOf": [{"type": "string"}, _LIST_SCHEMA]}


def shape(function: Callable[[Any], Any], schema: dict[str, Any], description: str = "") -> Any:
    return BeforeValidator(function), WithJsonSchema(
        {**schema, **({"description": description} if description else {})}
    )


# ---------------------------------------------------------------- scalars


def text(value: Any) -> str:
    """A string, or a number or boolean that is meant as one."""
    if isinstance(value, str):
        if "\0" in value:
            raise Mistake("cannot use text with a NUL byte")
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return text_of(value)
    raise Mistake(f"write text, not {kind_of(value)}")


def kind_of(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        ((int, float), "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "a table"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "a date or time")


def name_text(value: Any) -> str:
    found = text(value)
    if not NAME.match(found) or len(found) > 63:
        raise Mistake(f"{found!r} is not a name", "letters, digits and _ . - inside, at most 63")
    return found


def project_text(value: Any) -> str:
    found = text(value)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", found):
        raise Mistake(
            f"{found!r} is not a project name", "lower case letters, digits and _ - inside, at most 63"
        )
    return found


def flag(value: Any) -> bool:
    """true, false, or their text after a variable was replaced."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise Mistake(
        f"write true or false, not {value!r}" if isinstance(value, str | int) else "write true or false"
    )


def integer(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,20}", value.strip()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Mistake(f"write a whole number, not {value!r}")
        if not low <= value <= high:
            raise Mistake(f"{value} is out of range: {low} to {high}")
        return value

    return read


def whole(low: int, high: int) -> Any:
    return shape(
        integer(low, high),
        {
            "anyOf": [
                {"type": "integer", "minimum": low, "maximum": high},
                {"type": "string", "pattern": r"^[-+]?[0-9]+$|\$"},
            ]
        },
    )


def size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Mistake(f"write a size such as 512MiB, not {kind_of(value)}")
    return int(ByteSize.parse(value))


#: Docker's; less cannot hold a process that is about to start.
MIN_MEMORY = 6 << 20
_SHORTEST = 0.001  # seconds: docker's smallest time of a probe


def memory(value: Any) -> int:
    found = size(value)
    if 0 < found < MIN_MEMORY:
        raise Mistake(
            f"{ByteSize(found)} is too little for a program to start", "6MiB or more; mind the unit"
        )
    return found


def swap_size(value: Any) -> int:
    return -1 if value in (-1, "-1") else size(value)


def duration(value: Any) -> float:
    if not isinstance(value, str) and value != 0:
        written = f"{value}s" if isinstance(value, int | float) and not isinstance(value, bool) else "10s"
        raise Mistake("write a duration with its unit", f'"{written}"')
    return float(Duration.parse(str(value)))


def positive_duration(value: Any) -> float:
    found = duration(value)
    if found <= 0:
        raise Mistake("a duration of nothing makes no sense here")
    return found


def probe_duration(value: Any) -> float:
    """Not below docker's shortest one."""
    found = positive_duration(value)
    if found < _SHORTEST:
        raise Mistake("it cannot be less than one millisecond")
    return found


def probe_delay(value: Any) -> float:
    """Likewise, or none."""
    return probe_duration(value) if duration(value) else 0.0


def cpus(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Mistake(f"write a number such as 0.5, not {kind_of(value)}")
    return float(Cpus.parse(value))


def choice(*words: str, not_yet: tuple[str, ...] = ()) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        found = text(value)
        if found in words:
            return found
        if found in not_yet or any(w.endswith(":") and found.startswith(w) for w in not_yet):
            raise Mistake(f"{found!r}: {NOT_YET}", f"one of: {', '.join(words)}")
        raise Mistake(f"cannot use {found!r}: write one of {', '.join(words)}", nearest(found, words))

    return read


def one_of(*words: str, not_yet: tuple[str, ...] = ()) -> Any:
    return shape(choice(*words, not_yet=not_yet), words_schema(words))


def words_schema(words: Iterable[str]) -> dict[str, Any]:
    """One of these, or a variable."""
    return {"anyOf": [{"enum": list(words)}, VARIABLE]}


def image_reference(value: Any) -> str:
    """Only checked; a name may also be that of an [image] table."""
    found = text(value)
    ImageRef.parse(found)
    return found


def platform(value: Any) -> str:
    found = text(value)
    if not re.fullmatch(r"linux/[a-z0-9]+(?:/[a-z0-9]+)?", found):
        raise Mistake(f"cannot read platform {found!r}: write linux/ARCHITECTURE, such as linux/arm64")
    return found


def stop_signal(value: Any) -> str:
    found = text(value).upper()
    if found.isdigit():
        if not 1 <= int(found) <= 64:
            raise Mistake(f"{found} is not a signal: 1 to 64")
        try:
            return signal.Signals(int(found)).name
        except ValueError:
            return f"SIGRTMIN+{int(found) - 34}"
    name = found if found.startswith("SIG") else f"SIG{found}"
    if name not in signal.Signals.__members__ and not re.fullmatch(
        r"SIGRT(MIN\+|MAX-)([0-9]|[12][0-9]|30)", name
    ):
        raise Mistake(f"{found!r} is not a signal", nearest(name, list(signal.Signals.__members__)))
    return name


def cpuset(value: Any) -> str:
    found = text(value)
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", found):
        raise Mistake(f"cannot read cpuset {found!r}: write processors such as 0-2,4")
    for part in found.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise Mistake(f"cannot read cpuset {found!r}: {part} ends before it begins")
    return found


def user(value: Any) -> str:
    """USER[:GROUP], each a name or a number; what the names mean the image says."""
    found = text(value)
    parts = found.split(":")
    if len(parts) > 2:
        raise Mistake(f"cannot read user {found!r}: write USER or USER:GROUP")
    for part in parts:
        _id_fits(part)
    return found


def group(value: Any) -> str:
    found = text(value)
    if not found or found.startswith("-"):
        raise Mistake(f"cannot read group {found!r}: write a name or a number")
    _id_fits(found)
    return found


def _id_fits(name: str) -> None:
    if name.isdecimal() and int(name) > MAX_ID:
        raise Mistake(f"the id {name} is above {MAX_ID}")


def restart(value: Any) -> tuple[str, int]:
    """(policy, max_retries)."""
    found = "no" if value is False else text(value)
    policy, colon, count = found.partition(":")
    if policy == "on-failure" and colon:
        return policy, integer(1, 1_000_000)(count)
    words = ("no", "always", "on-failure", "unless-stopped")
    if policy not in words or colon:
        raise Mistake(
            f"cannot use {found!r}: write one of {', '.join(words)}, on-failure:N", nearest(found, words)
        )
    return policy, 0


# ---------------------------------------------------------------- lists


def absolute(value: Any) -> str:
    found = text(value)
    if not found.startswith("/"):
        raise Mistake(f"cannot use {found!r}: write an absolute path")
    return clean_path(found)


def hostname(value: Any) -> str:
    found = text(value)
    label = r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?"
    if len(found) > 63 or not re.fullmatch(rf"{label}(\.{label})*", found):
        raise Mistake(f"{found!r} is not a host name", "letters, digits and - . inside, at most 63")
    return found


def search_domain(value: Any) -> str:
    found = text(value)
    if not re.fullmatch(r"\.|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", found):
        raise Mistake(f"{found!r} is not a domain to search in")
    return found


def resolver_option(value: Any) -> str:
    found = text(value)
    if not re.fullmatch(r"[a-z0-9-]+(:[0-9]+)?", found):
        raise Mistake(f"{found!r} is not an option of resolv.conf", "such as ndots:2")
    return found


def listed(item: Callable[[Any], Any], *, single: bool = False) -> Callable[[Any], tuple[Any, ...]]:
    """A list of items (with `single`, one item stands for a list of it), mistakes at the item."""

    def read(value: Any) -> tuple[Any, ...]:
        if single and not isinstance(value, list):
            return (item(value),)
        if not isinstance(value, list):
            raise Mistake(f"write a list, not {kind_of(value)}")
        out, mistakes = [], []
        for index, one in enumerate(value):
            try:
                out.append(item(one))
            except ValueError as error:
                mistakes.append(Mistake(str(error), getattr(error, "hint", ""), (index,)))
        if mistakes:
            raise Mistakes(mistakes)
        return tuple(out)

    return read


def command(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            raise Mistake(f"cannot split command: {str(error).lower()}") from None
    return listed(text)(value)


#: Docker's largest number of a user or group.
MAX_ID = 2**31 - 1

ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice"),
    *("nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)

_CAPABILITIES = frozenset(
    re.findall(
        r"\w+",
        """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
        NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
        SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
        AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
        PERFMON BPF CHECKPOINT_RESTORE""",
    )
)


def capability(value: Any) -> str:
    found = text(value).upper().removeprefix("CAP_")
    if found == "ALL":
        return found
    if found not in _CAPABILITIES:
        raise Mistake(f"{value!r} is not a capability", _nearest_capability(found))
    return f"CAP_{found}"


def _nearest_capability(found: str) -> str:
    lower = {name.lower() for name in _CAPABILITIES}
    hint = nearest(found.lower(), lower)
    return hint.replace(word, word.upper()) if hint and (word := hint.split("'")[1]) else hint


def device(value: Any) -> tuple[str, str, str]:
    """(path on the host, path in the container, permissions)."""
    if isinstance(value, dict):
        unknown = set(value) - {"source", "target", "permissions"}
        if unknown or "source" not in value:
            raise Mistake("write source, target and permissions")
        parts = [text(value[k]) for k in ("source", "target", "permissions") if k in value]
        if "permissions" in value and "target" not in value:
            parts.insert(1, parts[0])
    else:
        parts = text(value).split(":")
    source = parts[0]
    if not source.startswith("/"):
        raise Mistake(
            f"cannot read device {source!r}: write a path such as /dev/fuse; other names are {NOT_YET}"
        )
    target, permissions = source, "rwm"
    if len(parts) == 2 and not parts[1].startswith("/"):
        permissions = parts[1]
    elif len(parts) >= 2:
        target, permissions = parts[1], parts[2] if len(parts) > 2 else "rwm"
    if (
        len(parts) > 3
        or not re.fullmatch(r"(?!.*(.).*\1)[rwm]{1,3}", permissions)
        or not target.startswith("/")
    ):
        raise Mistake("cannot read device: write /dev/HOST:/dev/CONTAINER:rwm")
    return posixpath.normpath(source), posixpath.normpath(target), permissions


def port(value: Any) -> tuple[PortBinding, ...]:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Mistake(f"write a port such as 8080:80, not {kind_of(value)}")
    return parse_ports(str(value))


def exposed(value: Any) -> str:
    found = text(value)
    ports, slash, protocol = found.partition("/")
    parse_port_range(ports)
    return f"{ports}/{parse_protocol(protocol) if slash else 'tcp'}"


_TMPFS_OPTIONS = ("size", "mode", "uid", "gid", "nr_inodes", "ro", "rw", "exec", "suid", "dev")


def tmpfs(value: Any) -> MountPoint:
    """`/path` or `/path:size=64m,mode=1777,uid=1000,ro`."""
    path, _, rest = text(value).partition(":")
    read_only, mode, limit = False, 0o1777, 0
    further: set[str] = set()
    for option in filter(None, rest.split(",")):
        key, _, setting = option.partition("=")
        if key == "size":
            limit = size(setting)
        elif key == "mode":
            mode = octal(setting)
        elif key == "ro":
            read_only = True
        elif key in ("uid", "gid", "nr_inodes"):
            further.add(f"{key}={integer(0, 2**32 - 2)(setting)}")
        elif option in ("exec", "suid", "dev"):
            further.add(option)
        elif option in ("noexec", "nosuid", "nodev"):
            further.discard(option.removeprefix("no"))
        elif option != "rw":
            raise Mistake(f"unknown tmpfs option {key!r}", nearest(key, _TMPFS_OPTIONS))
    return MountPoint(
        "tmpfs",
        "",
        parse_target(path),
        read_only,
        tmpfs_size=limit,
        tmpfs_mode=mode,
        tmpfs_options=tuple(sorted(further)),
    )


#: Numbers that nobody means as they stand.
_DECIMAL_MODES = (400, 440, 444, 600, 640, 644, 660, 664, 666, 700, 711, 750, 755, 770, 775, 777, 1777)


def octal(value: Any) -> int:
    """A file mode: a number as TOML and YAML have it (0o1777), octal text (`1777`), or YAML's old 0644."""
    if isinstance(value, WrittenInt):
        value = value.written
    elif value in _DECIMAL_MODES and not isinstance(value, bool):
        raise Mistake(f"cannot use mode {value}: it is decimal", f"write 0o{value}")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o7777:
        return value
    if isinstance(value, str) and re.fullmatch(r"(0o?)?[0-7]{1,4}", value):
        return int(value.removeprefix("0o"), 8)
    raise Mistake(f"cannot read mode {value!r}: write octal digits such as 1777")


def address(value: Any) -> str:
    return parse_ip(text(value))


def ipv6(value: Any) -> str:
    found = address(value)
    if ":" not in found:
        raise Mistake(f"cannot use {found!r}: write an IPv6 address")
    return found


def mac_address(value: Any) -> str:
    found = text(value).lower()
    if not re.fullmatch(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}", found):
        raise Mistake(f"cannot read hardware address {found!r}: write 02:42:ac:11:65:43")
    if int(found[:2], 16) & 1:
        raise Mistake(f"cannot use hardware address {found!r}: it is a multicast address")
    return found.replace("-", ":")


def ipv4(value: Any) -> str:
    found = address(value)
    if ":" in found:
        raise Mistake(f"cannot use {found!r}: write an IPv4 address")
    return found


# ---------------------------------------------------------------- types for pydantic fields

Text = Annotated[str, *shape(text, _TEXT_SCHEMA)]
Name = Annotated[str, *shape(name_text, {"type": "string"})]
Project = Annotated[str, *shape(project_text, {"type": "string"})]
Flag = Annotated[bool, *shape(flag, {"anyOf": [{"type": "boolean"}, _FLAG_TEXT]})]
Size = Annotated[int, *shape(size, {"type": ["string", "integer"]}, "bytes, or a size such as 512MiB")]
Memory = Annotated[int, *shape(memory, {"type": ["string", "integer"]}, "bytes, or a size such as 512MiB")]
SwapSize = Annotated[int, *shape(swap_size, {"type": ["string", "integer"]}, "a size, or -1 for no limit")]
Seconds = Annotated[float, *shape(duration, {"type": "string"}, "a duration such as 1m30s")]
ProbeDelay = Annotated[float, *shape(probe_delay, {"type": "string"}, "a duration such as 1m30s")]
ProbeSeconds = Annotated[float, *shape(probe_duration, {"type": "string"}, "a duration such as 1m30s")]
SomeSeconds = Annotated[float, *shape(positive_duration, {"type": "string"}, "a duration such as 1m30s")]
CpuCount = Annotated[float, *shape(cpus, {"type": ["string", "number"]}, "processors, such as 0.5")]
Texts = Annotated[tuple[str, ...], *shape(listed(text), _LIST_SCHEMA)]
Command = Annotated[tuple[str, ...], *shape(command, _ONE_OR_LIST, "split as a shell would, or a list")]
ImageName = Annotated[str, *shape(image_reference, {"type": "string"})]
ImageNames = Annotated[tuple[str, ...], *shape(listed(image_reference), _LIST_SCHEMA)]
Platform = Annotated[str, *shape(platform, {"type": "string"}, "such as linux/arm64")]
Signal = Annotated[str, *shape(stop_signal, {"type": ["string", "integer"]}, "such as SIGTERM")]
User = Annotated[str, *shape(user, _TEXT_SCHEMA, "USER or USER:GROUP, names or numbers")]
Groups = Annotated[tuple[str, ...], *shape(listed(group), _LIST_SCHEMA)]
Cpuset = Annotated[str, *shape(cpuset, {"type": ["string", "integer"]}, "processors such as 0-2,4")]
RestartPolicy = Annotated[
    tuple[str, int],
    *shape(restart, {"type": ["string", "boolean"]}, "no, always, on-failure[:N] or unless-stopped"),
]
Capabilities = Annotated[tuple[str, ...], *shape(listed(capability), _LIST_SCHEMA)]
Exposed = Annotated[tuple[str, ...], *shape(listed(exposed), _LIST_SCHEMA)]
Addresses = Annotated[tuple[str, ...], *shape(listed(address, single=True), _ONE_OR_LIST)]
Aliases = Annotated[tuple[str, ...], *shape(listed(hostname), _LIST_SCHEMA)]
SearchDomains = Annotated[tuple[str, ...], *shape(listed(search_domain, single=True), _ONE_OR_LIST)]
ResolverOptions = Annotated[tuple[str, ...], *shape(listed(resolver_option), _LIST_SCHEMA)]
Tmpfs = Annotated[tuple[MountPoint, ...], *shape(listed(tmpfs, single=True), _ONE_OR_LIST)]
Devices = Annotated[
    tuple[tuple[str, str, str], ...],
    *shape(listed(device), {"type": "array", "items": {"type": ["string", "object"]}}),
]
Mode = Annotated[int, *shape(octal, {"type": ["string", "integer"]}, "octal, such as 1777")]
Ipv6 = Annotated[str, *shape(ipv6, {"type": "string"})]
Ipv4 = Annotated[str, *shape(ipv4, {"type": "string"})]
Mac = Annotated[str, *shape(mac_address, {"type": "string"})]
ShortPort = Annotated[
    tuple[PortBinding, ...], *shape(port, {"type": ["string", "integer"]}, "[[IP:][HOST]:]CONTAINER[/udp]")
]
