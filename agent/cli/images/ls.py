"""Effects: `stead image ls`."""

from __future__ import annotations

import json

from agent.cli import table
from agent.cli.images import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    store.add_settings(parser)
    parser.add_argument("--json", action="store_true")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from specs.values import ImageRef

    with store.opened(options, paths) as runtime:
        images = runtime.images.list()
    if options.json:
        print(json.dumps([{"id": i.id, "names": i.names, "size": i.size} for i in images], indent=1))
        return 0
    rows = [
        (ImageRef.parse(name).familiar, image.id.removeprefix("sha256:")[:12], table.size(image.size))
        for image in images
        for name in image.names
    ]
    print(table.columns(("NAME", "ID", "SIZE"), sorted(rows)))
    return 0
