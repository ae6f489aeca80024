"""Effects: `stead image pull`."""

from __future__ import annotations

import os
import sys
from contextlib import closing, contextmanager

from agent.cli.images import progress, rows, store
from agent.places import DEFAULT_SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from runtime.images.store import ImageStore
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
    with _images(options, paths) as images:
        for ref in refs:
            try:
                _pull(images, ref, options)
            except Fault as fault:
                if len(refs) == 1:
                    raise
                print(f"stead: {fault}", file=sys.stderr, flush=True)
                code = 1
    store.wake_agent(paths)
    return code


@contextmanager
def _images(options: argparse.Namespace, paths: Paths) -> Iterator[ImageStore]:
    """The store alone, and the settings only where there are some: all the rest takes longer to load than
    a small image to come."""
    from runtime.images.credentials import config_path
    from runtime.images.store import ImageStore

    with rows.catalog(paths) as catalog:
        if options.settings is None and not DEFAULT_SETTINGS.exists():
            registries, config = {}, config_path("", os.environ)
        else:
            from agent.cli import specs
            from agent.machine import registry_settings

            settings = specs.settings_of(options)
            registries = registry_settings(settings)
            config = config_path(settings.credentials.docker_config, os.environ)
        opened = ImageStore(paths, catalog.database, registries=registries, docker_config=config)
        with closing(opened) as images:
            yield images


def _pull(images: ImageStore, ref: ImageRef, options: argparse.Namespace) -> None:
    before = images.get(str(ref))
    if not options.quiet:
        print(f"{ref.tag or ref.digest}: Pulling from {ref.repository}", flush=True)
    with progress.shown(options.quiet) as callback:
        image = images.pull(ref, platform=options.platform, progress=callback)
    if not options.quiet:
        same = before is not None and before.id == image
        print(f"Digest: {images.catalog.digest_of(ref)}")
        print(f"Status: {'Image is up to date' if same else 'Downloaded newer image'} for {ref.familiar}")
    print(ref, flush=True)
