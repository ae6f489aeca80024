"""Effects: `stead image ls`: a row for each name of each image, newest first."""

from __future__ import annotations

import time

from agent.cli import formatting
from agent.cli.images import choosing, rows
from runtime.images.listing import read_images
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from sqlite3 import Connection
    from typing import Any

    from runtime.images.listing import Listed
    from runtime.paths import Paths

NONE = "<none>"
HEADS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
    "Platform": "PLATFORM",
}
COLUMNS = ("Repository", "Tag", "ID", "CreatedSince", "Size")
WITH_DIGEST = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size")
FILTERS = ("before", "dangling", "label", "reference", "since", "until")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="REPOSITORY[:TAG]")
    parser.add_argument(
        "-a", "--all", action="store_true", help="also those without a name that others were made from"
    )
    parser.add_argument("--digests", action="store_true", help="show what registries call them")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    parser.add_argument("--json", action="store_const", dest="format", const="json", help="--format json")
    parser.add_argument("--no-trunc", action="store_true", help="show whole ids")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    now = time.time()
    with rows.reading(paths) as connection:
        images = read_images(connection) if connection is not None else []
        chosen = _chosen(options, images, connection, now)
    ordered = sorted(chosen, key=lambda item: (-choosing.created(item[0].created), item[0].id))
    table = [row for image, names in ordered for row in rows_of(image, names, options, now)]
    if options.quiet:
        print("".join(f"{row['ID']}\n" for row in table), end="")
        return 0
    columns = WITH_DIGEST if options.digests else COLUMNS
    for line in formatting.lines(table, options.format, HEADS, columns):
        print(line)
    return 0


def _chosen(
    options: argparse.Namespace, images: Sequence[Listed], connection: Connection | None, now: float
) -> list[tuple[Listed, tuple[str, ...]]]:
    """The images that are asked for, each with the familiar names to show."""
    words = [*options.filter, *([f"reference={options.name}"] if options.name else [])]
    wanted = choosing.read(
        words, FILTERS, now=now, made=lambda name: choosing.created(choosing.meant(images, name).created)
    )
    labels: dict[str, Any] = {}
    if connection is not None and (wanted.labels or wanted.unlabelled):
        query = "SELECT id, config FROM images"
        labels = {id: choosing.labels(config) for id, config in connection.execute(query)}
    found = []
    for image in images:
        names = wanted.names([ImageRef.parse(name).familiar for name in image.names])
        hidden = not names and (wanted.references or image.names or (image.children and not options.all))
        if not hidden and wanted.accepts(image, labels.get(image.id, {})):
            found.append((image, names))
    return found


def rows_of(
    image: Listed, names: Sequence[str], options: argparse.Namespace, now: float
) -> Iterable[dict[str, Any]]:
    """As docker: a row for each tag, with digests one for each pair; digests alone where there is no tag."""
    tags: dict[str, list[str]] = {}
    digests: dict[str, list[str]] = {}
    for name in names:
        repository, at, digest = name.partition("@")
        if at:
            digests.setdefault(repository, []).append(digest)
        else:
            repository, _, tag = name.rpartition(":")
            tags.setdefault(repository, []).append(tag)
    detailed = options.digests or ".Digest" in options.format
    fields = _fields(image, options, now)
    if not names:
        yield {"Repository": NONE, "Tag": NONE, "Digest": NONE, **fields}
    for repository, given in tags.items():
        of_it = digests.pop(repository, []) if detailed else []
        digests.pop(repository, None)
        for tag in given:
            for digest in of_it or [NONE]:
                yield {"Repository": repository, "Tag": tag, "Digest": digest, **fields}
    for repository, rest in digests.items():
        for digest in rest if detailed else rest[:1]:
            yield {"Repository": repository, "Tag": NONE, "Digest": digest, **fields}


def _fields(image: Listed, options: argparse.Namespace, now: float) -> dict[str, Any]:
    made = choosing.created(image.created)
    size = formatting.size(image.size)
    return {
        "ID": image.id if options.no_trunc else image.id[7:19],
        "CreatedSince": f"{formatting.duration(now - made)} ago" if made else "N/A",
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(made)) if made else "N/A",
        "Size": size,
        "VirtualSize": size,
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Containers": str(len(image.containers)),
        "Platform": image.platform,
    }
