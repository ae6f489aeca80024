"""Effects: `stead system df`: what images, containers, volumes and the build cache have of the disk."""

from __future__ import annotations

import time
from dataclasses import dataclass

from agent.cli import formatting
from agent.cli.images import choosing, rows
from agent.cli.main import need_root
from runtime import usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from runtime.paths import Paths

HEADS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
DIGITS = 4  # of sizes, as docker shows them here
#: The tables of -v: title, fields with their heads.
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "Images": (
        "Images space usage:",
        {
            "Repository": "REPOSITORY",
            "Tag": "TAG",
            "ID": "IMAGE ID",
            "CreatedSince": "CREATED",
            "Size": "SIZE",
            "SharedSize": "SHARED SIZE",
            "UniqueSize": "UNIQUE SIZE",
            "Containers": "CONTAINERS",
        },
    ),
    "Containers": (
        "Containers space usage:",
        {
            "ID": "CONTAINER ID",
            "Image": "IMAGE",
            "LocalVolumes": "LOCAL VOLUMES",
            "Size": "SIZE",
            "CreatedSince": "CREATED",
            "Status": "STATUS",
            "Names": "NAMES",
        },
    ),
    "Volumes": ("Local Volumes space usage:", {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}),
    "BuildCache": (
        "Build cache usage: {}",
        {
            "ID": "CACHE ID",
            "CacheType": "CACHE TYPE",
            "Size": "SIZE",
            "LastUsedSince": "LAST USED",
            "Shared": "SHARED",
            "Description": "DESCRIPTION",
        },
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-v", "--verbose", action="store_true", help="each image, container, volume, step")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    found = _read(paths)
    if not options.verbose:
        fields = ("Type", "TotalCount", "Active", "Size", "Reclaimable")
        for line in formatting.lines(_summary(found), options.format, HEADS, fields):
            print(line)
        return 0
    details = _details(found, time.time())
    if options.format in ("", "table"):
        print("\n".join(_tables(details, found)))
    else:
        print(formatting.one(details, options.format))
    return 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What is on the disk. Containers come with their phase."""

    images: usage.Images
    containers: Sequence[tuple[usage.ContainerUse, str]] = ()
    volumes: Sequence[usage.VolumeUse] = ()
    cache: Sequence[usage.CacheUse] = ()


def _read(paths: Paths) -> _Found:
    from agent.cli.ps import describe
    from runtime.images.listing import read_images
    from runtime.records import read_containers

    if not paths.database.exists():
        return _Found(usage.Images((), 0, 0))
    with rows.removing(paths) as collector:
        connection = collector.catalog.database.read()
        images, layers, records = read_images(connection), collector.sizes(), read_containers(connection)
        uses = usage.of_containers(connection, paths, records)
        return _Found(
            usage.of_images(images, layers),
            [(item, str(describe(paths, item.record)["phase"])) for item in uses],
            usage.of_volumes(connection, paths),
            usage.of_cache(connection, paths, layers, images),
        )


def _summary(found: _Found) -> list[dict[str, Any]]:
    running = [item for item, phase in found.containers if phase == "running"]
    cache = sum(item.size for item in found.cache if not item.shared)
    lines = (
        (
            "Images",
            len(found.images.images),
            sum(bool(item.image.containers) for item in found.images.images),
            found.images.size,
            found.images.reclaimable,
        ),
        (
            "Containers",
            len(found.containers),
            len(running),
            sum(item.size for item, _ in found.containers),
            sum(item.size for item, phase in found.containers if phase != "running"),
        ),
        (
            "Local Volumes",
            len(found.volumes),
            sum(item.links > 0 for item in found.volumes),
            sum(item.size for item in found.volumes),
            sum(item.size for item in found.volumes if not item.links),
        ),
        ("Build Cache", len(found.cache), 0, cache, cache),
    )
    return [
        {
            "Type": kind,
            "TotalCount": str(count),
            "Active": str(active),
            "Size": formatting.size(size, DIGITS),
            "Reclaimable": formatting.size(free, DIGITS) + (f" ({free * 100 // size}%)" if size else ""),
        }
        for kind, count, active, size, free in lines
    ]


def _details(found: _Found, now: float) -> dict[str, list[dict[str, Any]]]:
    return {
        "Images": [row for item in found.images.images for row in _image(item, now)],
        "Containers": [_container(item, phase, now) for item, phase in found.containers],
        "Volumes": [
            {"Name": item.name, "Links": str(item.links), "Size": formatting.size(item.size, DIGITS)}
            for item in found.volumes
        ],
        "BuildCache": [
            {
                "ID": item.id[:12],
                "CacheType": item.kind,
                "Size": formatting.size(item.size, DIGITS),
                "LastUsedSince": f"{formatting.duration(now - item.used)} ago",
                "Shared": "true" if item.shared else "false",
                "Description": formatting.ellipsis(item.text, 45),
            }
            for item in found.cache
        ],
    }


def _image(item: usage.ImageUse, now: float) -> Iterable[dict[str, Any]]:
    from specs.values import ImageRef

    made = choosing.created(item.image.created)
    for name in item.image.tags or ("",):
        ref = ImageRef.parse(name) if name else None
        yield {
            "Repository": ref.familiar.rpartition(":")[0] if ref else "<none>",
            "Tag": ref.tag if ref else "<none>",
            "ID": item.image.id[7:19],
            "CreatedSince": f"{formatting.duration(now - made)} ago" if made else "N/A",
            "Size": formatting.size(item.image.size, DIGITS),
            "SharedSize": formatting.size(item.shared, DIGITS),
            "UniqueSize": formatting.size(item.unique, DIGITS),
            "Containers": str(len(item.image.containers)),
        }


def _container(item: usage.ContainerUse, phase: str, now: float) -> dict[str, Any]:
    from specs.values import ImageRef

    return {
        "ID": item.record.id[:12],
        "Image": str(item.record.decode().image_called or ImageRef.parse(item.record.image).familiar),
        "LocalVolumes": str(item.volumes),
        "Size": formatting.size(item.size, DIGITS),
        "CreatedSince": f"{formatting.duration(now - item.record.created_at)} ago",
        "Status": phase,
        "Names": item.record.name,
    }


def _tables(details: Mapping[str, Sequence[Mapping[str, Any]]], found: _Found) -> Iterable[str]:
    cache = sum(item.size for item in found.cache if not item.shared)
    for number, (name, (title, heads)) in enumerate(TABLES.items()):
        if number:
            yield ""
        yield title.format(formatting.size(cache, DIGITS))
        yield ""
        yield from formatting.lines(details[name], "", heads, tuple(heads))
