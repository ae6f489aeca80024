"""Effects: `stead image pull`."""

from __future__ import annotations

import sys

from agent.cli.images import progress, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.local import LocalRuntime
    from runtime.paths import Paths
    from specs.values import ImageRef


def add_options(parser: argparse.ArgumentParser) -> None:
    store.add_settings(parser)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the names only")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="default: this machine's")


def run(options: argparse.Namespace, paths: Paths) -> int:
    """One after the other; one that fails keeps none of the others from being tried."""
    from runtime.faults import Fault

    code = 0
    refs = [store.reference(name) for name in options.names]
    with store.opened(options, paths) as runtime:
        for ref in refs:
            try:
                _pull(runtime, ref, options)
            except Fault as fault:
                if len(refs) == 1:
                    raise
                print(f"stead: {fault}", file=sys.stderr, flush=True)
                code = 1
    store.wake_agent(paths)
    return code


def _pull(runtime: LocalRuntime, ref: ImageRef, options: argparse.Namespace) -> None:
    before = runtime.images.get(str(ref))
    if not options.quiet:
        print(f"{ref.tag or ref.digest}: Pulling from {ref.repository}", flush=True)
    with progress.shown(options.quiet) as callback:
        image = runtime.images.pull(ref, platform=options.platform, progress=callback)
    if not options.quiet:
        same = before is not None and before.id == image
        print(f"Digest: {runtime.images.catalog.digest_of(ref)}")
        print(f"Status: {'Image is up to date' if same else 'Downloaded newer image'} for {ref.familiar}")
    print(ref, flush=True)
