"""Effects: `stead image prune`: images without a tag go, or all that nothing uses.

What a rollback may need stays: it is made without a network.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing

from agent.cli import asking, formatting
from agent.cli.images import choosing, rows, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from runtime.images.listing import Listed
    from runtime.paths import Paths

FILTERS = ("label", "until")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="all that no container uses")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="KEY=VALUE", help="until=TIME, label[!]=KEY[=VALUE]"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    wanted = choosing.read(options.filter, FILTERS, now=time.time(), made=lambda _: 0.0)
    if not options.force and not asking.agreed(_named(options.all)):
        print(f"Total reclaimed space: {formatting.size(0)}")
        return 0  # as docker
    needed, kept = _of_rollbacks(paths), set()
    with rows.removing(paths) as collector:
        labels: dict[str, Mapping[str, str]] = {}
        if wanted.labels or wanted.unlabelled:
            found = collector.catalog.database.read().execute("SELECT id, config FROM images")
            labels = {row[0]: choosing.labels(row[1]) for row in found}

        def accepts(image: Listed) -> bool:
            if not wanted.accepts(image, labels.get(image.id, {})):
                return False
            if image.id in needed:
                kept.add(image.id)
            return image.id not in needed

        lines, size = collector.prune(everything=options.all, wanted=accepts)
    if lines:
        print("Deleted Images:")
        print("".join(f"{line[:1].lower()}{line[1:]}\n" for line in lines))
    print(f"Total reclaimed space: {formatting.size(size)}")
    if kept:
        which = ", ".join(sorted(id.removeprefix("sha256:")[:12] for id in kept))
        print(f"kept, since a rollback may need it: {which} (stead image rm removes it)", file=sys.stderr)
    store.wake_agent(paths)
    return 0


def _of_rollbacks(paths: Paths) -> frozenset[str]:
    """Empty where there never was a version to go back to."""
    if not paths.rollouts.exists():
        return frozenset()
    from agent.planner.updates import images_of_rollbacks
    from agent.rollouts import Rollouts

    with closing(Rollouts(paths.rollouts)) as known:
        return images_of_rollbacks(known.versions(), known.orders())


def _named(everything: bool) -> str:
    return "all images without at least one container using them" if everything else "all dangling images"
