"""Effects: `stead image verify`: look for what rotted in the store, and set it aside."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager

from agent.cli import formatting
from agent.cli.images import rows, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from runtime.images.verify import Progress, Rotten, Verified
    from runtime.paths import Paths

INTERVAL = 0.2  # seconds between two looks at the progress
CURES = {
    "layer": "it comes back from its archive or by a pull, when a container needs it",
    "archive": "stead image pull or import brings it back",
    "config": "it was written anew",
    "manifest": "another one is made when it is needed",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="IMAGE", help="default: everything")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only tell what rotted, set nothing aside"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what rotted")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.images.verify import Verifier

    begin = time.monotonic()
    with rows.removing(paths) as collector:
        verifier = Verifier(collector.catalog, collector.blobs, collector.layers, collector)
        with _progress(sys.stderr.isatty() and not options.quiet) as progress:
            verified = verifier.verify(options.names, progress)
        if not options.dry_run:
            verifier.set_aside(verified.rotten)
    for item in verified.rotten:
        print(_line(item, options.dry_run))
    for text in verified.skipped:
        print(f"not compared: {text}")
    if not options.quiet:
        print(_summary(verified, time.monotonic() - begin))
    if verified.rotten and not options.dry_run:
        store.wake_agent(paths)
    return 1 if verified.rotten or verified.skipped else 0


def _line(item: Rotten, dry: bool) -> str:
    text = formatting.visible(str(item))
    return text if dry else f"{text}; set aside: {CURES[item.kind]}"


def _summary(verified: Verified, seconds: float) -> str:
    count, left = len(verified.rotten), len(verified.skipped)
    found = [*([f"{count} rotten"] if count else []), *([f"{left} not compared"] if left else [])]
    return (
        f"looked at {verified.blobs} archives, configs and manifests and {verified.layers} layers"
        f" in {seconds:.1f} s: {', '.join(found) or 'all well'}"
    )


@contextmanager
def _progress(shown: bool) -> Iterator[Progress]:
    """A line that is written over and over."""
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if shown and now - last >= INTERVAL:
            last = now
            part = done * 100 // total if total else 100
            text = f"{part}% of {formatting.size(total)}"
            print(f"\rlooked at {text:<30}", end="", file=sys.stderr, flush=True)

    yield tell
    if last:
        print(f"\r{'':<40}\r", end="", file=sys.stderr, flush=True)
