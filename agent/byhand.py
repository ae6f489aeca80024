"""Decisions: what a person asks for on the command line -> the request of a container that no source
declares.

It takes the way of a spec: the same fields, the same checks, the same translation. What the words refer to
(networks, volumes, containers) was looked up before, and stands in `Around`; in the document it is external.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from agent import render
from runtime.faults import Fault
from runtime.wishes import ContainerRequest, VolumeRequest
from specs.desired import Desired, DesiredImage
from specs.problems import Problem
from specs.resolve import resolve
from specs.values import ImageRef, MountPoint

_FILE, _PROJECT, _NAME = "run.yaml", "run", "new"
#: How many documents are remembered, and up to how many bytes with their files: an agent lives long.
KNOWN, SMALL = 32, 64 * 1024
#: What a container is on when nothing else is said.
NETWORK = "bridge"
#: Words of --network, --pid and --ipc that name another container.
_OTHER = "container:"
_SHARED = ("network_mode", "pid", "ipc", "uts")


@dataclass(frozen=True, slots=True)
class Around:
    """What the words mean on this machine: as written -> full name. `mounts` come from other containers."""

    image: ImageRef
    networks: Mapping[str, str] = field(default_factory=dict)
    containers: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[MountPoint] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # by the names that the fields have for them
    called: str = ""  # what the person wrote for the image


def on_some_network(table: Mapping[str, Any]) -> dict[str, Any]:
    """With the default network, where nothing is said of any."""
    found = dict(table)
    if not found.get("networks") and found.get("network_mode") in (None, "bridge", "default"):
        found.pop("network_mode", None)
        found["networks"] = {NETWORK: {}}
    return found


def named_volumes(table: Mapping[str, Any]) -> list[str]:
    """The volumes that `volumes` names, in either form; each once. What cannot be read is no name: `request`
    says so."""
    found: dict[str, None] = {}
    for item in table.get("volumes", ()):
        if isinstance(item, str):
            try:
                mount = MountPoint.parse(item)
            except ValueError:
                continue
            if mount.kind == "volume" and mount.source:
                found[mount.source] = None
        elif item.get("type") == "volume" and item.get("source"):
            found[str(item["source"])] = None
    return list(found)


#: of a volume itself, and not of how it is mounted
_OF_VOLUME = ("labels", "driver_opts")


def new_volumes(table: Mapping[str, Any]) -> dict[str, VolumeRequest]:
    """Those that `volumes` names, by their names, with what the long form has for one that is made by it."""
    found = {name: VolumeRequest(name, "", "") for name in named_volumes(table)}
    for item in table.get("volumes", ()):
        if not isinstance(item, str) and item.get("type") == "volume" and item.get("source") in found:
            name, said = str(item["source"]), item.get("volume") or {}
            labels, options = (
                {**old, **(said.get(key) or {})}
                for key, old in zip(_OF_VOLUME, (found[name].labels, found[name].options), strict=True)
            )
            found[name] = replace(found[name], labels=labels, options=options)
    return found


def other_containers(table: Mapping[str, Any]) -> list[str]:
    """The containers that modes name."""
    modes = (str(table.get(key) or "") for key in _SHARED)
    return [mode.removeprefix(_OTHER) for mode in modes if mode.startswith(_OTHER)]


def request(
    name: str, table: Mapping[str, Any], around: Around, *, auto_remove: str = ""
) -> ContainerRequest:
    """Fault request-invalid with all that is wrong. `table` has the keys of [container.NAME]."""
    document, back = _document(table, around)
    text = json.dumps(_plain(document)).encode()
    files = (*((name, content.encode()) for name, content in around.files.items()), (_FILE, text))
    small = sum(len(content) for _, content in files) <= SMALL
    desired, problems = (_resolved if small else _resolved.__wrapped__)(files)
    if desired is None:
        said = dict.fromkeys(map(_text, problems))
        raise Fault("request-invalid", "create container", name, "; ".join(said))
    want = desired.containers[f"{_PROJECT}/{_NAME}"]
    made = render.container_request("", want, DesiredImage(around.image))
    taken = {mount.target for mount in made.mounts}
    return replace(
        made,
        name=name,
        project="",
        service=name,
        auto_remove=auto_remove,
        image_called=around.called,
        **{key: back.get(value, value) for key, value in _modes(made).items()},
        networks=tuple(replace(one, network=back[one.network]) for one in made.networks),
        mounts=made.mounts + tuple(mount for mount in around.mounts if mount.target not in taken),
    )


@lru_cache(maxsize=KNOWN)
def _resolved(files: tuple[tuple[str, bytes], ...]) -> tuple[Desired | None, tuple[Problem, ...]]:
    """People run the same again; the name is not in it."""
    return resolve(dict(files), source="", variables={})


def _text(problem: Problem) -> str:
    """In the words of the field; of a file that goes with it with its place."""
    at = "" if problem.file == _FILE else f"{problem.file}:{problem.line}: "
    hint = f" ({problem.hint})" if problem.hint else ""
    return at + problem.text.removeprefix(f"container.{_NAME}.") + hint


def _modes(made: ContainerRequest) -> dict[str, Any]:
    return {key: getattr(made, key) for key in ("network_mode", "pid_mode", "ipc_mode", "uts_mode")}


def _document(table: Mapping[str, Any], around: Around) -> tuple[dict[str, Any], dict[str, str]]:
    """(a spec file, what it calls networks and modes -> what they are really called)"""
    container = {**table, "image": "image"}
    others: dict[str, Any] = {}
    back: dict[str, str] = {}
    for key in _SHARED:
        mode = str(table.get(key) or "")
        if mode.startswith(_OTHER):
            owner = around.containers[mode.removeprefix(_OTHER)]
            others.setdefault("owner", {"image": "image", "ipc": "shareable"})  # the start sees if it is
            container[key] = f"{_OTHER}owner"
            back[f"{_OTHER}{_PROJECT}/owner"] = f"{_OTHER}{owner}"
    networks = {f"n{number}": full for number, full in enumerate(dict.fromkeys(around.networks.values()))}
    keys = {full: key for key, full in networks.items()}
    back |= {f"{_PROJECT}/{key}": full for key, full in networks.items()}
    if "networks" in table:
        container["networks"] = {keys[around.networks[w]]: body for w, body in table["networks"].items()}
    volumes = named_volumes(table)
    if "volumes" in table:
        known = {name: f"v{number}" for number, name in enumerate(volumes)}
        container["volumes"] = [_with_key(item, known) for item in table["volumes"]]
    return {
        "project": _PROJECT,
        "container": {_NAME: container, **others},
        "network": {key: {"external": True, "name": f"{_PROJECT}/{key}"} for key in networks},
        "volume": {f"v{n}": {"external": True, "name": name} for n, name in enumerate(volumes)},
    }, back


def _with_key(item: Any, known: Mapping[str, str]) -> Any:
    """The same with the volume's key in the document instead of its name; labels are the volume's own."""
    if not isinstance(item, str):
        source = item.get("source")
        if source not in known or item["type"] != "volume":
            return item
        options = {key: value for key, value in (item.get("volume") or {}).items() if key not in _OF_VOLUME}
        return {**item, "source": known[source], "volume": options or None}
    name, colon, rest = item.partition(":")
    return f"{known[name]}:{rest}" if colon and name in known else item


def _plain(value: Any) -> Any:
    """The same with no variables in it: a dollar is one."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
