"""Effects: `stead image history`: what an image was made by, newest first."""

from __future__ import annotations

import time

from agent.cli import formatting
from agent.cli.images import choosing, rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runtime.paths import Paths

MISSING = "<missing>"
WIDEST = 45  # characters of a command that is not shown in full
HEADS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="IMAGE")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    text = "sizes and times for people (default)"
    parser.add_argument("-H", "--human", "--human=true", action="store_true", default=True, help=text)
    text = "sizes in bytes, times as they are"
    parser.add_argument("--human=false", "-H=false", action="store_false", dest="human", help=text)
    parser.add_argument("--no-trunc", action="store_true", help="show whole ids and commands")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with rows.catalog(paths) as catalog:
        id = catalog.need(options.name, "show history of image")
        image = catalog.get(id)
        assert image is not None
        query = "SELECT chain_id, size FROM layers WHERE chain_id IN"
        query += " (SELECT chain_id FROM image_layers WHERE image = ?)"
        sizes = dict(map(tuple, catalog.database.read().execute(query, (id,))))
    steps = history(image.id, image.config, [int(sizes.get(chain_id, 0)) for chain_id in image.chain_ids])
    table = [_row(step, options, time.time()) for step in steps]
    if options.quiet:
        print("\n".join(row["ID"] for row in table))
        return 0
    time_field = "CreatedSince" if options.human else "CreatedAt"
    for line in formatting.lines(
        table, options.format, HEADS, ("ID", time_field, "CreatedBy", "Size", "Comment")
    ):
        print(line)
    return 0


def history(id: str, config: Mapping[str, Any], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Steps, newest first, each with the bytes of the layer that it made. Only the newest has an id: the
    others were never images here. Layers that the history does not speak of are the oldest steps.
    """
    given = [step for step in config.get("history") or [] if isinstance(step, dict)]
    making = sum(not step.get("empty_layer") for step in given)
    left = list(sizes)
    steps = [{"Size": left.pop(0)} for _ in range(max(0, len(sizes) - making))]
    for step in given:
        size = 0 if step.get("empty_layer") or not left else left.pop(0)
        steps.append({**step, "Size": size})
    return [
        {
            "Id": MISSING if number else id,
            "Created": str(step.get("created") or ""),
            "CreatedBy": str(step.get("created_by") or ""),
            "Size": step["Size"],
            "Comment": str(step.get("comment") or ""),
        }
        for number, step in enumerate(reversed(steps))
    ]


def _row(step: Mapping[str, Any], options: argparse.Namespace, now: float) -> dict[str, Any]:
    made, human, full = choosing.created(step["Created"]), options.human, options.no_trunc
    command = step["CreatedBy"].replace("\t", " ")
    return {
        "ID": step["Id"] if full or step["Id"] == MISSING else step["Id"][7:19],
        "CreatedSince": f"{formatting.duration(now - made)} ago" if made else "N/A",
        "CreatedAt": step["Created"],
        "CreatedBy": command if full else formatting.ellipsis(command, WIDEST),
        "Size": formatting.size(step["Size"]) if human else str(step["Size"]),
        "Comment": step["Comment"],
    }
