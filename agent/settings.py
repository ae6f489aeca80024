"""Values: what /etc/stead/stead.toml says, checked at the edge: every problem at once, with its line."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from agent.places import DEFAULT_SETTINGS as DEFAULT_SETTINGS
from agent.planner.guard import Guard
from agent.planner.model import NEVER, Collecting, Limits
from agent.secrets import Keys
from agent.webhook import Hook
from runtime.images.garbage import Limits as CollectLimits
from runtime.paths import Paths
from specs.values import Duration

#: Where age's identity of this node is, unless the settings say otherwise.
IDENTITY = "/etc/stead/age.key"


class SettingsError(Exception):
    """The settings cannot be used. `problems` are lines "file:line:column: text"."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _seconds(value: object) -> object:
    return float(Duration.parse(value)) if isinstance(value, str) else value


def _absolute(value: object) -> object:
    if isinstance(value, str) and value and not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
AbsolutePath = Annotated[str, BeforeValidator(_absolute)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_SOURCE = r"^[a-z0-9][a-z0-9_.-]*$"


class Source(_Table):
    """[[source]]: exactly one of directory and git."""

    name: str = Field("", pattern=rf"{_SOURCE}|^$")
    directory: AbsolutePath = ""
    git: str = ""
    ref: str = Field("", pattern=r"^[^-\s~^:?*\\\[][^\s~^:?*\\\[]*$|^$")
    interval: Seconds = 30.0
    ssh_key: AbsolutePath = ""
    token_file: AbsolutePath = ""
    path: str = ""
    variables: dict[str, str] = {}
    profiles: list[str] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.directory) == bool(self.git):
            raise ValueError("a source has exactly one of directory and git")
        if self.directory and (self.ref or self.ssh_key or self.token_file):
            raise ValueError("ref, ssh_key and token_file belong to git sources")
        if self.path.startswith("/") or ".." in self.path.split("/"):
            raise ValueError("path is relative to the source and stays inside of it")
        if self.git.startswith("-"):
            raise ValueError("git: not a URL or path")
        return self

    @property
    def label(self) -> str:
        """The name, or what the last part of the location gives."""
        if self.name:
            return self.name
        base = (self.directory or self.git).rstrip("/").rpartition("/")[2].rpartition(":")[2]
        return source_name(base.removesuffix(".git"))


def source_name(base: str) -> str:
    """A name for what a directory or URL of this base name declares."""
    kept = "".join(c if c.isalnum() or c in "_.-" else "-" for c in base.lower()).strip("-._")
    return kept or "default"


def is_source_name(text: str) -> bool:
    return re.fullmatch(_SOURCE, text) is not None


class Node(_Table):
    name: str = ""
    labels: dict[str, str] = {}


class Registry(_Table):
    """[registry."host:port"]: as runtime.images.store.RegistrySettings."""

    insecure: bool = False
    ca_file: AbsolutePath = ""
    username: str = ""
    password_file: AbsolutePath = ""
    mirrors: list[str] = []
    cert_file: AbsolutePath = ""
    key_file: AbsolutePath = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.key_file and not self.cert_file:
            raise ValueError("key_file belongs to a cert_file")
        if self.password_file and not self.username:
            raise ValueError("password_file belongs to a username")
        return self


class Credentials(_Table):
    """[credentials]"""

    docker_config: AbsolutePath = ""  # a config.json; empty: that of the user who runs the agent


def _listening(value: object) -> object:
    port = str(value).rpartition(":")[2]
    if port.isdecimal() and int(port) > 65535:
        raise ValueError(f"{port} is no port: 0 to 65535")
    return value


class Listen(_Table):
    metrics: Annotated[str, BeforeValidator(_listening)] = Field(
        "127.0.0.1:9420", pattern=r"^(\S+:\d{1,5})?$"
    )  # empty: no TCP port
    group: str = "root"  # may use the unix socket, and so do all that root may


class Secrets(_Table):
    """[secrets]"""

    identities: list[AbsolutePath] = [IDENTITY]  # files of age identities or SSH keys
    directory: AbsolutePath = ""  # where external secrets and configs are, by name


class LimitSettings(_Table):
    parallel: int = Field(8, ge=1, le=64)  # steps at once
    pulls: int = Field(3, ge=1, le=32)  # pulls at once
    builds: int = Field(1, ge=1, le=32)  # builds at once


class Images(_Table):
    """[images]: when images that nothing needs are removed. Percent of the disk, seconds."""

    gc: bool = True
    gc_interval: Seconds = 3600.0
    gc_high: float = Field(85.0, gt=0, le=100)
    gc_low: float = Field(80.0, gt=0, le=100)
    keep_for: Seconds = 7 * 86400.0  # without a name
    unused_for: Annotated[float, BeforeValidator(_seconds), Field(ge=0)] = 0.0  # with one; 0: for ever

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gc_low > self.gc_high:
            raise ValueError("gc_low is above gc_high")
        return self


class Volumes(_Table):
    """[volumes]: seconds after which a volume that nothing declares goes, unless its spec says otherwise."""

    prune: Seconds | None = None  # None: never


class Network(_Table):
    """[network]: the pools that subnets are cut from, and how the host reaches its published ports."""

    pool: str = "10.88.0.0/16"
    ipv6_pool: str = ""  # empty: a /48 of unique local addresses of the node's own
    shortcut: bool = True  # eBPF at connect(2) to 127.0.0.1 and ::1

    @model_validator(mode="after")
    def _check(self) -> Self:
        for kind, text in ((IPv4Network, self.pool), (IPv6Network, self.ipv6_pool)):
            try:
                _ = kind(text) if text else None
            except ValueError as error:
                raise ValueError(f"cannot read pool {text!r}: {error}") from None
        return self


class Security(_Table):
    """[security]"""

    userns_user: str = Field(
        "", pattern=r"^[^:\s]*$"
    )  # whose ids in /etc/subuid, /etc/subgid; empty: stead, root


class GuardSettings(_Table):
    """[guard]: which revisions wait for `stead approve`."""

    removals: float = Field(50.0, ge=0, le=100)  # percent of all containers
    containers: int = Field(3, ge=0)  # that may be removed in any case


class Notify(_Table):
    """[notify]: where people are told of rollbacks."""

    webhook: str = Field("", pattern=r"^(https?://\S+)?$")
    timeout: Seconds = 5.0
    retries: int = Field(3, ge=0, le=10)


class Settings(_Table):
    source: list[Source] = []
    node: Node = Node()
    registry: dict[str, Registry] = {}
    credentials: Credentials = Credentials()
    listen: Listen = Listen()
    secrets: Secrets = Secrets()
    limits: LimitSettings = LimitSettings()
    images: Images = Images()
    volumes: Volumes = Volumes()
    network: Network = Network()
    security: Security = Security()
    guard: GuardSettings = GuardSettings()
    notify: Notify = Notify()

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [source.label for source in self.source]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"two sources are named {', '.join(double)}; give one of them another name")
        return self

    @property
    def node_name(self) -> str:
        return self.node.name or socket.gethostname()

    def keys(self, paths: Paths | None) -> Keys:
        """How secrets are read; without `paths` they are only looked for."""
        return Keys(tuple(self.secrets.identities), self.secrets.directory, paths)

    def planner_limits(self) -> Limits:
        return Limits(
            parallel=self.limits.parallel,
            pulls=self.limits.pulls,
            builds=self.limits.builds,
            prune=self.volumes.prune or NEVER,
        )

    def hook(self) -> Hook | None:
        """None: nobody is told."""
        notify = self.notify
        return Hook(notify.webhook, notify.timeout, notify.retries) if notify.webhook else None

    def guarding(self) -> Guard:
        return Guard(self.guard.removals / 100, self.guard.containers)

    def collecting(self) -> Collecting | None:
        """None: nothing is ever removed by itself."""
        images = self.images
        if not images.gc:
            return None
        limits = CollectLimits(images.gc_high / 100, images.gc_low / 100, images.keep_for, images.unused_for)
        return Collecting(images.gc_interval, limits)


def load(path: Path | None = None) -> Settings:
    """Settings from `path`, or from DEFAULT_SETTINGS if there is such a file. Raises SettingsError."""
    chosen = path or DEFAULT_SETTINGS
    try:
        text = chosen.read_text()
    except FileNotFoundError:
        if path is None:
            return Settings()
        raise SettingsError((f"cannot read settings {chosen}: no such file",)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError((f"cannot read settings {chosen}: {reason}".lower(),)) from error
    return parse(text, str(chosen))


def parse(text: str, file: str = "stead.toml") -> Settings:
    """Raises SettingsError with every problem."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError((f"{file}: {error}",)) from error
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        problems = tuple(_line(text, file, item) for item in error.errors())
        raise SettingsError(problems) from error


def _line(text: str, file: str, error: Any) -> str:
    """One problem; its place is that of the last key of its path that stands in the text."""
    path = [part for part in error["loc"] if part != "float"]
    line, column = _place(text, path)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "unknown key"
    where = ".".join(str(part) for part in path)
    return f"{file}:{line}:{column}: {where + ': ' if where else ''}{message[:1].lower() + message[1:]}"


def _place(text: str, path: list[str | int]) -> tuple[int, int]:
    """Line and column of the innermost part of `path` that can be found: a table header, then a key in it."""
    lines = text.splitlines()
    start, column, seen, wanted = 0, 1, -1, 0
    keys = [part for part in path if isinstance(part, str)]
    if len(path) > 1 and isinstance(path[1], int):
        wanted = path[1]
    for number, line in enumerate(lines):
        stripped = line.strip().strip("[]").strip().replace('"', "")
        if keys and line.strip().startswith("[") and stripped.split(".")[0] == keys[0]:
            seen += 1
            if seen == wanted or stripped == ".".join(keys[:2]):
                start = number
                if seen == wanted:
                    break
    for number in range(start, len(lines)):
        if number > start and lines[number].strip().startswith("["):
            break
        name = lines[number].split("=")[0].strip().strip('"')
        if (len(keys) > 1 and name == keys[-1]) or (len(keys) == 1 and name == keys[0]):
            column = lines[number].index(name) + 1
            return number + 1, column
    return start + 1, column
