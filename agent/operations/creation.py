"""Effects: a container that no source declares is made: what it names is looked up, or made."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent import byhand
from agent.operations import naming
from runtime.faults import Fault
from runtime.images.catalog import StoredImage
from runtime.local import LocalRuntime
from runtime.records import read_container
from runtime.volumes.records import read_anonymous
from runtime.wishes import NetworkRequest
from specs.values import ImageRef, MountPoint

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_LONGEST = 200


def create(runtime: LocalRuntime, args: Mapping[str, Any]) -> dict[str, str]:
    """The id and name of a new container that does not run yet.

    `image` is a name or id; `table` has the keys of [container.NAME], with networks and containers as people
    call them; `name` may be empty; `volumes_from` has NAME[:ro|rw], `files` the
    content of what the table names; `auto_remove` is as in ContainerRequest;
    `platform` is what the image must be for. Networks must be there, but for the default one. Faults:
    image-not-found, container-exists, network-not-found, container-not-found, request-invalid, and those of
    addresses and ports.
    """
    name = str(args.get("name") or "")
    if name and (not _NAME.match(name) or len(name) > _LONGEST):
        cause = "a name has at least two letters, digits, _ . - and begins with a letter or digit"
        raise Fault("request-invalid", "create container", name, cause)
    if name and read_container(runtime.database.read(), name) is not None:
        hint = f"remove it with `stead rm {name}`, or choose another name"
        raise Fault("container-exists", "create container", name, "the name is taken", hint)
    table = byhand.on_some_network(args["table"])
    image = _image(runtime, str(args["image"]), str(args.get("platform") or ""))
    if not _has_test(table, image):
        table.pop("healthcheck", None)  # what it says of times and failures is about no probe
    name = name or naming.invent(runtime)
    around = byhand.Around(
        image=_reference(image, str(args["image"])),
        networks={text: _network(runtime, text) for text in table.get("networks", ())},
        containers={
            text: naming.container(runtime, text, "create container").name
            for text in byhand.other_containers(table)
        },
        mounts=_mounts_from(runtime, args.get("volumes_from") or ()),
        files=args.get("files") or {},
        called=str(args["image"]),
    )
    request = byhand.request(name, table, around, auto_remove=str(args.get("auto_remove") or ""))
    for volume in byhand.new_volumes(table).values():
        if runtime.volumes.get(volume.name) is None:
            runtime.create_volume(volume)
    id = runtime.containers.create(request, now=time.time(), image_id=image.id)
    return {"id": id, "name": name}


def _image(runtime: LocalRuntime, text: str, platform: str) -> StoredImage:
    image = runtime.images.get(text)
    if image is None:
        cause = f"image {text} is not in the store"
        raise Fault("image-not-found", "create container of", text, cause, "pull or import it")
    have = "/".join(str(image.config.get(key) or "") for key in ("os", "architecture", "variant")).rstrip("/")
    if platform and not f"{have}/".startswith(f"{platform}/"):
        cause = f"the image of this name in the store is for {have}, not {platform}"
        raise Fault("image-not-found", "create container of", text, cause, "pull it for that platform")
    return image


def _has_test(table: Mapping[str, Any], image: StoredImage) -> bool:
    check = table.get("healthcheck") or {}
    own = (image.config.get("config") or {}).get("Healthcheck") or {}
    return bool(check.get("test") or check.get("disable") or own.get("Test"))


def _reference(image: StoredImage, text: str) -> ImageRef:
    """As it was called, or the beginning of its id in the place of a name that it does not have."""
    names = set(image.names)
    try:
        called = ImageRef.parse(text)
    except ValueError:
        called = None
    if called is not None and str(called) in names:
        return called
    return ImageRef.parse(image.names[0] if image.names else image.id.removeprefix("sha256:")[:12])


def _network(runtime: LocalRuntime, text: str) -> str:
    """The default network is made when it is first asked for."""
    try:
        return naming.network(runtime, text, "create container on")
    except Fault as fault:
        if fault.code != "network-not-found" or text != byhand.NETWORK:
            raise
    runtime.create_network(NetworkRequest(byhand.NETWORK, "", "by hand"))
    return byhand.NETWORK


def _mounts_from(runtime: LocalRuntime, words: Sequence[str]) -> list[MountPoint]:
    """Volumes and binds of other containers, anonymous volumes by their names."""
    found: dict[str, MountPoint] = {}
    for word in words:
        name, _, mode = str(word).partition(":")
        if mode not in ("", "ro", "rw"):
            raise Fault("request-invalid", "take volumes from", name, f"write ro or rw, not {mode!r}")
        record = naming.container(runtime, name, "take volumes from")
        anonymous = read_anonymous(runtime.database.read(), record.name)
        mounts = {mount.target: mount for mount in record.decode().mounts if mount.kind in ("volume", "bind")}
        for target, volume in anonymous.items():
            mounts[target] = replace(
                mounts.get(target, MountPoint("volume", "", target)), source=volume, labels=()
            )
        for target, mount in mounts.items():
            found[target] = replace(mount, read_only=mount.read_only or mode == "ro")
    return list(found.values())


OPERATIONS: Mapping[str, Callable[[LocalRuntime, Mapping[str, Any]], Any]] = {"create": create}
