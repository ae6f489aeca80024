"""Values: the files by which the runtime tells the name server what there is, and hears what it does.

    run/names/networks.json          networks that have an address to answer at: read by the server
    run/names/state.json             pid, where it listens, where it cannot: written by the server
    run/names/lock                   held (flock) by the server
    run/names/error                  why the last one ended that did not mean to: text
    run/names/heed                   written anew to make the server look at containers before anybody asks
    run/names/takeover               where a newer server asks for its sockets: handover.py
    run/containers/<id>/names.json   names and addresses of one container; goes with that directory
    run/containers/<id>/state.json   its phase and health, as its shim writes them

Each is replaced in one rename. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, NamedTuple

from runtime.net.dns.zone import Endpoint, Files, Member, Network

#: Of these documents. From 2 on a server hands its sockets over to a newer one.
VERSION = 2
DIRECTORY, NETWORKS, STATE, LOCK, MEMBER = "names", "networks.json", "state.json", "lock", "names.json"
ERROR, HEED = "error", "heed"
#: Bytes of any of these files.
MAX_SIZE = 16 * 1024 * 1024
#: Phases (runtime.observations.Phase) in which a container has its names.
UP = frozenset({"starting", "running"})


class Release(NamedTuple):
    """Of a server: of its documents, and when its code was written, in ns since the epoch. The larger one is
    the newer one."""

    version: int = 0
    built: int = 0


_NONE = Release()


@dataclass(frozen=True, slots=True)
class State:
    """What the server last wrote. The start time is in clock ticks since boot (proc_pid_stat(5))."""

    pid: int = 0
    start: int = 0
    release: Release = _NONE
    listening: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)  # address -> why nothing or not all listens there


def encode_networks(networks: Iterable[Network]) -> bytes:
    items = [
        {
            "name": item.name,
            "gateways": list(item.gateways),
            "subnets": [str(subnet) for subnet in item.subnets],
            "internal": item.internal,
            "bridge": item.bridge,
        }
        for item in networks
    ]
    return json.dumps({"v": VERSION, "networks": items}).encode()


def decode_networks(data: bytes) -> list[Network]:
    """ValueError for what we did not write."""
    try:
        return [
            Network(
                str(item["name"]),
                tuple(map(str, item["gateways"])),
                tuple(ip_network(subnet) for subnet in item["subnets"]),
                bool(item["internal"]),
                str(item["bridge"]),
            )
            for item in json.loads(data)["networks"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"cannot read networks: {error!r}") from error


def encode_member(member: Member) -> bytes:
    return json.dumps({"v": VERSION, **_fields(member)}, default=_fields).encode()


def _fields(value: Any) -> dict[str, Any]:
    """Of a dataclass, as they are: asdict copies all that is below."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def decode_member(data: bytes) -> Member:
    """ValueError for what we did not write."""
    try:
        document: dict[str, Any] = json.loads(data)
        return Member(
            id=str(document["id"]),
            name=str(document["name"]),
            endpoints=tuple(
                Endpoint(
                    str(item["network"]),
                    tuple(str(ip_network(address).network_address) for address in item["addresses"]),
                    tuple(map(str, item["aliases"])),
                )
                for item in document["endpoints"]
            ),
            hostname=str(document["hostname"]),
            dns=tuple(map(str, document["dns"])),
            files=_files(document.get("files") or {}),
            leaving=bool(document.get("leaving", False)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read names: {error!r}") from error


def _files(document: dict[str, Any]) -> Files:
    """Nothing, where an older release wrote the document."""
    return Files(
        str(document.get("directory", "")),
        str(document.get("gateway", "")),
        tuple(map(str, document.get("search", ()))),
        tuple(map(str, document.get("options", ()))),
        bool(document.get("on_host", False)),
    )


def standing(data: bytes) -> tuple[bool, bool]:
    """Whether the shim's record says that the container has its names, and that it is ready for what others
    want of it. ValueError for no such record."""
    try:
        document = json.loads(data)
        phase, health = document["phase"], document.get("health")
        up = phase in UP and health != "unhealthy" and document.get("ready", True)
        return up, up and phase == "running" and health != "starting"
    except (KeyError, TypeError) as error:
        raise ValueError(f"cannot read state: {error!r}") from error


def encode_state(state: State) -> bytes:
    document = {
        "v": VERSION,
        "pid": state.pid,
        "start": state.start,
        **state.release._asdict(),
        "listening": state.listening,
        "failed": state.failed,
    }
    return json.dumps(document).encode()


def decode_state(data: bytes) -> State:
    """ValueError for what no server wrote."""
    try:
        document = json.loads(data)
        return State(
            int(document["pid"]),
            int(document["start"]),
            Release(int(document["version"]), int(document.get("built", 0))),
            tuple(map(str, document["listening"])),
            {str(key): str(value) for key, value in document["failed"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read state of name server: {error!r}") from error


def encode_release(release: Release) -> bytes:
    return json.dumps(release._asdict()).encode()


def decode_release(data: bytes) -> Release:
    """ValueError for what no server sends."""
    try:
        document = json.loads(data)
        return Release(int(document["version"]), int(document["built"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"cannot read release: {error!r}") from error
