"""Values: short ways to say what is desired, for tests of the planner and the engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from specs.desired import (
    Attachment,
    Dependency,
    Desired,
    DesiredBuild,
    DesiredContainer,
    DesiredImage,
    DesiredNetwork,
    DesiredVolume,
    Limits,
    Place,
    Restart,
    Update,
)
from specs.values import ImageRef, MountPoint, PortBinding, parse_ports

BUSYBOX = str(ImageRef.parse("busybox"))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def container(
    name: str,
    *,
    image: str = "busybox",
    env: Mapping[str, str] | None = None,
    networks: Iterable[str] = (),
    volumes: Mapping[str, str] | None = None,
    mounts: Iterable[MountPoint] = (),
    ports: Iterable[str] = (),
    memory: int = 0,
    after: Mapping[str, str] | None = None,
    line: int = 1,
    addresses: Mapping[str, str] | None = None,
    **more: Any,
) -> DesiredContainer:
    """Identity covers image, environment, networks and volumes; memory and ports are adjustable."""
    bindings: tuple[PortBinding, ...] = tuple(b for text in ports for b in parse_ports(text))
    named = (MountPoint("volume", source, target) for source, target in (volumes or {}).items())
    mounts = (*named, *mounts)
    reference = str(ImageRef.parse(image))
    if order := more.pop("update_order", ""):
        more["update"] = more["way_back"] = Update(order=order)
    extra = {
        key: value
        for key, value in more.items()
        if key not in ("desired", "suspend", "place", "update", "way_back", "service", "job", "depends_on")
    }
    identity = {
        "image": reference,
        **{f"environment.{key}": value for key, value in (env or {}).items()},
        "networks": sorted(networks),
        **{f"networks.{one}.ipv4_address": address for one, address in (addresses or {}).items()},
        "mounts": [str(m) for m in mounts],
        **{key: str(value) for key, value in extra.items()},
    }
    if more.get("job") is not None:
        more.setdefault("restart", Restart("no"))
    adjustable = {"memory": str(memory), "ports": [str(p) for p in bindings]}
    return DesiredContainer(
        name=name,
        image=reference,
        project=name.partition("/")[0],
        environment=dict(env or {}),
        networks=tuple(Attachment(n, ipv4_address=(addresses or {}).get(n, "")) for n in networks),
        mounts=mounts,
        ports=bindings,
        limits=Limits(memory=memory),
        depends_on=more.pop("depends_on", tuple(Dependency(n, c) for n, c in (after or {}).items())),
        identity=_digest(identity),
        adjustable=_digest(adjustable),
        facets=json.dumps({"identity": identity, "adjustable": adjustable}, sort_keys=True),
        **{"place": Place("spec.toml", line), **more},
    )


def network(name: str, *, subnet: str = "", label: str = "") -> DesiredNetwork:
    fingerprint = _digest([name, subnet]) + (f"+{label}" if label else "")
    return DesiredNetwork(name, subnet=subnet, fingerprint=fingerprint, place=Place("net.toml", 1))


def volume(name: str, *, label: str = "", **more: Any) -> DesiredVolume:
    fingerprint = _digest([name, label, *([str(more)] if more else [])])
    return DesiredVolume(name, fingerprint=fingerprint, place=Place("vol.toml", 1), **more)


def image(
    reference: str, *, pull: str = "missing", platform: str = "", interval: float = 0.0, digest: str = ""
) -> DesiredImage:
    place = Place("images.toml", 1)
    ref = ImageRef.parse(reference)
    return DesiredImage(ref, pull, platform, place, interval=interval, digest=digest)


def built(reference: str, **build: Any) -> DesiredImage:
    made = DesiredBuild(**{"context": "/src", **build})
    return DesiredImage(ImageRef.parse(reference), "never", place=Place("images.toml", 1), build=made)


def desired(source: str, *things: Any) -> Desired:
    """A source that wants `things`; images that containers name and nobody declared are added."""
    images = {str(t.ref): t for t in things if isinstance(t, DesiredImage)}
    containers = {t.name: t for t in things if isinstance(t, DesiredContainer)}
    for item in containers.values():
        mounted = [mount.source for mount in item.mounts if mount.kind == "image"]
        for reference in (item.image, *mounted):
            images.setdefault(reference, DesiredImage(ImageRef.parse(reference)))
    return Desired(
        source=source,
        images=images,
        networks={t.name: t for t in things if isinstance(t, DesiredNetwork)},
        volumes={t.name: t for t in things if isinstance(t, DesiredVolume)},
        containers=containers,
    )
