"""Effects: `stead builder prune`: steps of builds are forgotten, and layers go that no image has."""

from __future__ import annotations

import sys
import time

from agent.cli import formatting
from agent.cli.images import choosing, rows
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="everything, which is the default")
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("--filter", action="append", default=[], metavar="until=TIME", help="only older ones")
    text = "keep the most recently used, up to so much"
    parser.add_argument("--keep-storage", "--max-used-space", default="", metavar="SIZE", help=text)


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.build import prune
    from runtime.build.cache import Cache

    limit = _size(options.keep_storage)
    before = _before(options.filter)
    if not options.force and sys.stdin.isatty() and not _agreed():
        return 0
    with rows.removing(paths) as collector:
        cache = Cache(collector.catalog.database)
        shared = cache.shared()
        steps, mounts = prune.prune(paths, cache, limit=limit, before=before)
        collector.collect()
    for step in steps:
        print(f"{step.key[:12]}\t{formatting.size(step.size)}\t{formatting.ellipsis(step.text, 60)}")
    for name in mounts:
        print(f"{name[:12]}\tcache of RUN --mount")
    freed = prune.total([step for step in steps if step.chain_id not in shared])
    print(f"Total:\t{formatting.size(freed)}")
    return 0


def _size(word: str) -> int | None:
    from specs.values import ByteSize

    if not word:
        return None
    try:
        return int(ByteSize.parse(word))
    except ValueError as error:
        raise Problem(f"--keep-storage {word}: {error}", 2) from error


def _before(words: list[str]) -> float | None:
    found = None
    for word in words:
        key, _, value = word.partition("=")
        if key != "until" or not value:
            raise Problem(f"--filter {word}: there is until=TIME", 2)
        found = choosing.moment(value, time.time())
    return found


def _agreed() -> bool:
    print("WARNING! This will remove the build cache.")
    print("Are you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
