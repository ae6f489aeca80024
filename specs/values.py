"""Values: the words that specs, runtime and agent share. Standard library only; importing this is cheap.

Every `parse` takes what a person writes and raises ValueError with a text for that person. `str()` of a value
is canonical and parses back to an equal value.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from dataclasses import dataclass
from typing import Self

DEFAULT_HOST = "docker.io"

_HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?\Z"
)
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_HEX = re.compile(r"[0-9a-f]+\Z")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A content digest, `sha256:<hex>` (OCI image spec, descriptor.md#digests)."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        algorithm, colon, hexadecimal = text.partition(":")
        length = _HEX_LENGTHS.get(algorithm)
        if not colon or length is None:
            raise ValueError(f"cannot read digest {text!r}: write sha256:<64 hexadecimal digits>")
        if len(hexadecimal) != length or not _HEX.match(hexadecimal):
            raise ValueError(f"cannot read digest {text!r}: {algorithm} has {length} lower-case hex digits")
        return cls(algorithm, hexadecimal)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


#: The host of images that are built here and have no name of their own: no registry is called so.
LOCAL_HOST = "localhost"


@dataclass(frozen=True, slots=True, order=True)
class ImageRef:
    """An image's full name (grammar: distribution/reference). Exactly one of tag and digest is not empty.

    `digest` is canonical text (`sha256:<hex>`). `name:tag@digest` is `name@digest`: the digest wins.
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageRef:
        """`nginx` -> docker.io/library/nginx:latest; `localhost:5000/app@sha256:...`; else ValueError."""
        if not text or text != text.strip():
            raise ValueError(f"cannot read image reference {text!r}: it is empty or has blanks around it")
        name, at, digest = text.partition("@")
        if at:
            digest = str(Digest.parse(digest))
        slash = name.rfind("/")
        colon = name.find(":", slash + 1)
        tag = ""
        if colon >= 0:
            name, tag = name[:colon], name[colon + 1 :]
            if not _TAG.match(tag):
                raise ValueError(f"cannot read image reference {text!r}: {tag!r} is not a tag")
        elif _IMAGE_ID.match(name):
            raise ValueError(f"cannot read image reference {text!r}: it is an id, not a name")
        host, repository = _split_host(name)
        if not _HOST.match(host):
            raise ValueError(f"cannot read image reference {text!r}: {host!r} is not a host name")
        if not all(_PATH.match(part) for part in repository.split("/")):
            why = (
                "lower case only" if repository != repository.lower() else "letters, digits and . _ - inside"
            )
            raise ValueError(
                f"cannot read image reference {text!r}: {repository!r} is not a repository ({why})"
            )
        if len(host) + 1 + len(repository) > 255:
            raise ValueError(f"cannot read image reference: {text[:40]!r}... has more than 255 characters")
        return cls(host, repository, "" if digest else tag or "latest", digest)

    @property
    def name(self) -> str:
        """Without tag and digest: `docker.io/library/nginx`."""
        return f"{self.host}/{self.repository}"

    @property
    def familiar(self) -> str:
        """As people write it: `nginx:latest`, `user/app:1`, `registry.example/app:1`."""
        name = self.repository.removeprefix("library/")
        if self.host != DEFAULT_HOST or _split_host(name) != (self.host, self.repository):
            name = self.name
        return name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return f"@{self.digest}" if self.digest else f":{self.tag}"


def _split_host(name: str) -> tuple[str, str]:
    """The first part is a host when it has a dot, a colon, upper case, or is `localhost`, as in Docker."""
    first, slash, rest = name.partition("/")
    if not slash or not (
        "." in first
        or ":" in first
        or first == "localhost"
        or first != first.lower()
        or first.startswith("[")
    ):
        return DEFAULT_HOST, name if slash else f"library/{name}"
    if first in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        return DEFAULT_HOST, rest if "/" in rest else f"library/{rest}"
    return first, rest


# ---------------------------------------------------------------- quantities

_SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([kmgtp]?)(i?b?)\Z", re.IGNORECASE)
_SIZE_UNITS = ("", "k", "m", "g", "t", "p")
MAX_BYTES = 2**63 - 1


class ByteSize(int):
    """A number of bytes. Units are powers of 1024, as in Compose: `512m` = `512MB` = `512MiB`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | int) -> Self:
        if isinstance(text, bool):
            raise ValueError(f"cannot read size {text!r}: write bytes or a size such as 512MiB")
        match = _SIZE.match(str(int(text) if isinstance(text, int) else text).strip())
        if match is None or match[3].lower() == "i" or (match[3].lower() == "ib" and not match[2]):
            raise ValueError(f"cannot read size {text!r}: write bytes or a size such as 512MiB")
        from fractions import Fraction  # not above: commands that only look want to import little

        value = Fraction(match[1]) * 1024 ** _SIZE_UNITS.index(match[2].lower())
        if value > MAX_BYTES:
            raise ValueError(f"cannot read size {text!r}: more than 2^63-1 bytes")
        return cls(int(value))

    def __str__(self) -> str:
        value = int(self)
        for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
            if value and value % 1024**power == 0:
                return f"{value // 1024**power}{unit}"
        return f"{value}B"


_DURATION_PART = re.compile(r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(us|µs|ms|s|m|h|d|w)")
_DURATION_UNITS = {
    "w": 604_800_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}


class Duration(float):
    """Seconds, to the microsecond. Written as in Compose: `1h5m30s`, `1.5s`, `20ms`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        if text == "0":
            return cls(0)
        from fractions import Fraction

        total, position = Fraction(0), 0
        for match in _DURATION_PART.finditer(text):
            if match.start() != position:
                break
            unit = "us" if match[2] == "µs" else match[2]
            total += (
                Fraction("0" + match[1] if match[1][0] == "." else match[1].rstrip("."))
                * _DURATION_UNITS[unit]
            )
            position = match.end()
        if not text or position != len(text):
            hint = (
                f"write {text}s"
                if re.fullmatch(r"[0-9.]+", text)
                else "write a duration such as 1m30s or 500ms"
            )
            raise ValueError(f"cannot read duration {text!r}: {hint}")
        if total > 10**15:
            raise ValueError(f"cannot read duration {text!r}: more than 30 years")
        return cls(round(total) / 1_000_000)

    def __str__(self) -> str:
        rest = round(float(self) * 1_000_000)
        if rest == 0:
            return "0s"
        out = ""
        for unit in ("h", "m", "s", "ms", "us"):
            count, rest = divmod(rest, _DURATION_UNITS[unit])
            if count:
                out += f"{count}{unit}"
        return out


class Cpus(float):
    """A number of processors' time: `0.5`, `2`. 0 means no limit, as in Compose."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | float) -> Self:
        text = repr(text) if isinstance(text, float) else str(text)
        if not re.fullmatch(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+", text):
            raise ValueError(f"cannot read cpus {text!r}: write a number such as 0.5 or 2")
        value = float(text)
        if value and not 0.01 <= value <= 65536:
            raise ValueError(f"cannot read cpus {text!r}: between 0.01 and 65536")
        return cls(value)

    def __str__(self) -> str:
        text = repr(float(self))
        return text.removesuffix(".0")


# ---------------------------------------------------------------- ports

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?\Z")
MAX_PORT_RANGE = 4096
PORT_PROTOCOLS = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True, order=True)
class PortBinding:
    """One published port. `host_ip` empty: every address of the host; 0.0.0.0 and ::, every one of IPv4 and
    of IPv6. `protocol` is tcp, udp or sctp.

    `host_port` 0: a free one is chosen (random). `host_end` not 0: the first free one from `host_port` to
    `host_end`, both included. What was chosen has neither: it is fixed.
    """

    host_ip: str = ""
    host_port: int = 0
    container_port: int = 0
    protocol: str = "tcp"
    host_end: int = 0

    @property
    def is_fixed(self) -> bool:
        return bool(self.host_port) and not self.host_end

    def __str__(self) -> str:
        ip = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        host = f"{self.host_port}-{self.host_end}" if self.host_end else str(self.host_port)
        return f"{ip}{':' if ip else ''}{host}:{self.container_port}/{self.protocol}"


def addresses_meet(one: str, other: str) -> bool:
    """Whether ports on these host addresses take the same packets: an empty one is every address, 0.0.0.0
    every one of IPv4, :: every one of IPv6."""
    if one == other or not one or not other:
        return True
    same_family = (":" in one) == (":" in other)
    return same_family and (one in ("0.0.0.0", "::") or other in ("0.0.0.0", "::"))


def parse_ports(text: str) -> tuple[PortBinding, ...]:
    """Compose's short form `[[IP:][HOST[-HOST]]:]CONTAINER[-CONTAINER][/PROTOCOL]`, a binding for each port
    of the container. Without HOST it is random; one port of the container may have a range to choose from.
    """
    rest, slash, protocol = text.partition("/")
    protocol = parse_protocol(protocol) if slash else "tcp"
    host_ip, host, container = _split_port(rest, text)
    if host_ip:
        host_ip = parse_ip(host_ip)
    return bindings(host_ip, host, parse_port_range(container), protocol, text)


def bindings(host_ip: str, host: str, container: range, protocol: str, text: str) -> tuple[PortBinding, ...]:
    """`host` is empty, a port or a range; ValueError names `text`."""
    if not host or host == "0":
        return tuple(PortBinding(host_ip, 0, port, protocol) for port in container)
    hosts = parse_port_range(host)
    if len(hosts) == len(container):
        pairs = zip(hosts, container, strict=True)
        return tuple(PortBinding(host_ip, one, other, protocol) for one, other in pairs)
    if len(container) == 1:
        return (PortBinding(host_ip, hosts[0], container[0], protocol, hosts[-1]),)
    raise ValueError(
        f"cannot read port {text!r}: {len(hosts)} host ports for {len(container)} of the container"
    )


def _split_port(rest: str, text: str) -> tuple[str, str, str]:
    if rest.startswith("["):
        ip, bracket, tail = rest[1:].partition("]:")
        if not bracket:
            raise ValueError(f"cannot read port {text!r}: write [IPV6]:HOST:CONTAINER")
        host, colon, container = tail.partition(":")
        return (ip, host, container) if colon else (ip, "", host)
    parts = rest.rsplit(":", 2)
    if len(parts) == 1:
        return "", "", parts[0]
    if len(parts) == 2:
        if "." in parts[0]:
            return parts[0], "", parts[1]
        return "", parts[0], parts[1]
    if ":" in parts[0]:
        raise ValueError(f"cannot read port {text!r}: an IPv6 address stands in brackets")
    return parts[0], parts[1], parts[2]


def parse_protocol(text: str) -> str:
    protocol = text.lower()
    if protocol not in PORT_PROTOCOLS:
        raise ValueError(f"cannot read protocol {text!r}: write tcp, udp or sctp")
    return protocol


def parse_port_range(text: str) -> range:
    """`80` or `80-90`, both ends included."""
    match = _RANGE.match(text)
    if match is None:
        raise ValueError(f"cannot read port {text!r}: write a number or a range from 1 to 65535")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise ValueError(f"cannot read port {text!r}: ports are 1 to 65535")
    if last < first:
        raise ValueError(f"cannot read port range {text!r}: it ends before it begins")
    if last - first >= MAX_PORT_RANGE:
        raise ValueError(f"cannot read port range {text!r}: more than {MAX_PORT_RANGE} ports")
    return range(first, last + 1)


def parse_ip(text: str) -> str:
    """An IPv4 or IPv6 address in canonical form."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"cannot read address {text!r}: write an IPv4 or IPv6 address") from None


# ---------------------------------------------------------------- mounts

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_NO_EFFECT = ("rw", "cached", "delegated", "consistent")  # on Linux
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")


@dataclass(frozen=True, slots=True, order=True)
class MountPoint:
    """Something that appears at `target` (absolute) in a container.

    `source` is a volume's name (empty: an anonymous one), a host path (bind), a canonical image reference or
    empty (tmpfs). `create_source`: a missing bind source is created as a directory, as the short form has
    it. `tmpfs_size` is bytes, 0: half of the memory; `tmpfs_options` are further ones: uid=N, gid=N,
    nr_inodes=N, exec, suid, dev. `subpath` is a part of a volume or image, `selinux` z or Z, `labels` are
    those of an anonymous volume. `recursive` is about mounts below a bind's source: disabled (left out),
    writable (not read-only with it), readonly and empty (they come along, read-only where the bind is).
    """

    kind: str
    source: str
    target: str
    read_only: bool = False
    nocopy: bool = False
    propagation: str = "rprivate"
    tmpfs_size: int = 0
    tmpfs_mode: int = 0o1777
    create_source: bool = False
    subpath: str = ""
    recursive: str = ""
    selinux: str = ""
    tmpfs_options: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> MountPoint:
        """Compose's short form `SOURCE:TARGET[:OPTION,...]`, or `/TARGET` for an anonymous volume; options of
        consistency have no effect.

        A source that begins with `/` or `.` is a path (bind), anything else the name of a volume.
        """
        parts = text.split(":")
        if len(parts) == 1:
            if not text.startswith("/"):
                raise ValueError(f"cannot read volume {text!r}: write SOURCE:TARGET, or /TARGET alone")
            return cls("volume", "", parse_target(text))
        if len(parts) > 3 or not parts[0]:
            raise ValueError(f"cannot read volume {text!r}: write SOURCE:TARGET or SOURCE:TARGET:ro")
        source, target = parts[0], parse_target(parts[1])
        kind = "bind" if source[0] in "/." else "volume"
        if source.startswith("~"):
            raise ValueError(
                f"cannot read volume {text!r}: write a full path; the agent has no home directory"
            )
        if kind == "volume" and not all(NAME.match(part) for part in source.split("/")):
            raise ValueError(
                f"cannot read volume {text!r}: {source!r} is not a volume name; a path begins with / or ./"
            )
        if kind == "bind" and source.startswith("/"):
            source = clean_path(source)
        read_only, nocopy, propagation, selinux = (
            _mount_options(parts[2], text) if len(parts) == 3 else (False, False, "", "")
        )
        if nocopy and kind == "bind":
            raise ValueError(f"cannot read volume {text!r}: nocopy is for volumes")
        if propagation and kind == "volume":
            raise ValueError(f"cannot read volume {text!r}: {propagation} is for paths")
        return cls(
            kind,
            source,
            target,
            read_only=read_only,
            nocopy=nocopy,
            propagation=propagation or "rprivate",
            create_source=kind == "bind",
            selinux=selinux,
        )

    def __str__(self) -> str:
        options = []
        if self.read_only:
            options.append("ro")
        if self.nocopy:
            options.append("nocopy")
        if self.propagation != "rprivate":
            options.append(self.propagation)
        if self.selinux:
            options.append(self.selinux)
        tail = f":{','.join(options)}" if options else ""
        if self.kind == "volume" and not self.source:
            return f"{self.target}{tail}"
        return f"{self.source or self.kind}:{self.target}{tail}"


def _mount_options(text: str, whole: str) -> tuple[bool, bool, str, str]:
    """(read only, nocopy, propagation, SELinux suffix)"""
    read_only, nocopy, propagation, selinux = False, False, "", ""
    for option in text.split(","):
        if option in ("ro", "readonly"):
            read_only = True
        elif option in ("nocopy", "volume-nocopy"):
            nocopy = True
        elif option in PROPAGATIONS:
            propagation = option
        elif option in ("z", "Z"):
            selinux = option
        elif option not in _NO_EFFECT:
            raise ValueError(f"cannot read volume {whole!r}: unknown option {option!r}")
    return read_only, nocopy, propagation, selinux


def parse_target(text: str) -> str:
    """An absolute path in the container, cleaned; not `/` itself."""
    if not text.startswith("/"):
        raise ValueError(f"cannot read mount target {text!r}: write an absolute path")
    target = clean_path(text)
    if target == "/":
        raise ValueError("cannot mount over '/': name a directory below it")
    if not may_be_covered(target):
        raise ValueError(f"cannot mount over {target!r}: inside of /proc only {', '.join(COVERED)} can be")
    return target


#: Files of /proc that may be mounted over, as runc has it: those that lxcfs gives. What is on a process's
#: directory goes with the process.
COVERED = (
    *(f"/proc/{name}" for name in "cpuinfo diskstats loadavg meminfo slabinfo stat swaps uptime".split()),
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
)


def may_be_covered(target: str) -> bool:
    """Of a clean path."""
    return not target.startswith("/proc/") or target in COVERED


def clean_path(text: str) -> str:
    """Absolute path without `//`, `.` and `..` (POSIX's leading `//` too)."""
    if "\0" in text:
        raise ValueError("cannot read path: it has a NUL byte")
    return "/" + posixpath.normpath(text).lstrip("/")


# ---------------------------------------------------------------- backups


@dataclass(frozen=True, slots=True)
class Keep:
    """Which backups stay: the newest `last`, and the newest one of each of the last so many hours, days,
    weeks, months and years in which there is one. All 0: everything stays."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


EVERYTHING = Keep()
