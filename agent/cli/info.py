"""Effects: `stead info`: how many containers and images there are, and what this machine has for them, as
docker says it. Needs no agent, and says whether one lives."""

from __future__ import annotations

import sqlite3
import time

from agent.cli import formatting, status, table
from agent.cli.containers import seen
from agent.cli.images import store
from agent.cli.main import Problem, need_root
from agent.process import release
from runtime import attend

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from agent.settings import Settings
    from runtime.paths import Paths

    Document = dict[str, Any]

_TITLES = (
    ("Images", "Images"),
    ("ServerVersion", "Server Version"),
    ("Driver", "Storage Driver"),
    ("LoggingDriver", "Logging Driver"),
    ("CgroupDriver", "Cgroup Driver"),
)
_MACHINE = (
    ("KernelVersion", "Kernel Version"),
    ("OperatingSystem", "Operating System"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("NCPU", "CPUs"),
    ("MemTotal", "Total Memory"),
    ("Name", "Name"),
    ("DockerRootDir", "Root Dir"),
    ("run", "Run Dir"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", default="", metavar="FORMAT", help='"json" or a template')
    store.add_settings(parser)


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    from agent.cli import specs

    found = document(paths, specs.settings_of(options))
    print(formatting.one(found, options.format) if options.format else "\n".join(text(found, time.time())))
    return 0


def document(paths: Paths, settings: Settings) -> Document:
    """Docker's keys, and in small letters ours."""
    from agent.cli import host
    from runtime.net.addresses import SUBNET_PREFIX

    mounts = host.table()
    mode = host.cgroup_mode(mounts)
    options, missing = host.walls(settings.security.userns_user)
    pool = settings.network.pool
    agent = _agent(paths)
    return {
        **_containers(paths),
        "Images": _images(paths),
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", host.backing(mounts, paths.root)]],
        "LoggingDriver": "local",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if mode == "v2" else "1",
        "SecurityOptions": options,
        **host.facts(),
        "DockerRootDir": str(paths.root),
        "ServerVersion": agent["version"] or release(),
        "DefaultAddressPools": [{"Base": pool, "Size": SUBNET_PREFIX}],
        "Runtimes": {"stead": {"path": "stead"}},
        "DefaultRuntime": "stead",
        "InitBinary": "catatonit",
        "LiveRestoreEnabled": True,
        "Warnings": None,
        "run": str(paths.run),
        "cgroup_mode": mode,
        "missing": missing,
        "agent": agent,
    }


def _containers(paths: Paths) -> Document:
    """What is between two runs counts as running, as with docker."""
    states = [item.docker_state for item in seen.look(paths, attend.read_all(paths))]
    running = sum(state in ("running", "restarting") for state in states)
    paused = states.count("paused")
    return {
        "Containers": len(states),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": len(states) - running - paused,
    }


def _images(paths: Paths) -> int:
    from contextlib import closing

    from runtime.database import connect

    if not paths.database.exists():
        return 0
    try:
        with closing(connect(paths.database, readonly=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM images").fetchone()[0])
    except sqlite3.OperationalError:  # made, and not yet migrated
        return 0


def _agent(paths: Paths) -> Document:
    """Whether one lives; `state` and what follows is what it says of itself, `error` why it said nothing."""
    from agent.lock import holder

    found: Document = {"alive": False, "pid": 0, "version": "", "state": "", "started_at": 0.0, "error": ""}
    try:
        said = status.ask(paths, "/v1/status")
    except status.NoAgent:
        return found
    except Problem as problem:
        return {**found, "alive": True, "pid": holder(paths)[0], "error": str(problem)}
    known = {key: said[key] for key in ("version", "state", "started_at")}
    return {**found, "alive": True, "pid": holder(paths)[0], **known}


def text(found: Mapping[str, Any], now: float) -> list[str]:
    states = [f"  {word}: {found[f'Containers{word}']}" for word in ("Running", "Paused", "Stopped")]
    lines = [f" Containers: {found['Containers']}", *(f" {line[1:]}" for line in states)]
    for key, title in _TITLES:
        lines.append(f" {title}: {found[key]}")
        if key == "Driver":
            lines += [f"  {name}: {value or 'not known'}" for name, value in found["DriverStatus"]]
    mode = found["cgroup_mode"] or "no cgroups are mounted"
    lines.append(f" Cgroup Version: {found['CgroupVersion']} ({mode})")
    lines.append(" Security Options:")
    for option in found["SecurityOptions"]:
        name, *more = option.removeprefix("name=").split(",")
        lines += [f"  {name}", *(f"   {word.replace('=', ': ').capitalize()}" for word in more)]
    lines += [f"  no {name}: {cause}" for name, cause in found["missing"].items()]
    for key, title in _MACHINE:
        value = table.size(found[key]) if key == "MemTotal" else found[key]
        lines.append(f" {title}: {value}")
    pools = (f"{pool['Base']}, Size: {pool['Size']}" for pool in found["DefaultAddressPools"])
    lines += [" Default Address Pools:", *(f"   Base: {pool}" for pool in pools)]
    return ["Server:", *lines, f" Agent: {_told(found['agent'], now)}"]


def _told(agent: Mapping[str, Any], now: float) -> str:
    if not agent["alive"]:
        return "none runs"
    if agent["error"]:
        return f"pid {agent['pid']}, {agent['error']}"
    return f"pid {agent['pid']}, {agent['state']}, for {table.age(now - agent['started_at'])}"
