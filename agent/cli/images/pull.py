"""Effects: `stead image pull`."""

from __future__ import annotations

import os
import sys
from contextlib import closing, contextmanager

from agent.cli.images import progress, rows, store
from agent.cli.main import Problem
from agent.places import DEFAULT_SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from runtime.images.store import ImageStore
    from runtime.paths import Paths
    from specs.values import ImageRef

#: What no other tag of the repository would fare better with.
_ALL_ALIKE = frozenset({"registry-unreachable", "registry-denied", "registry-busy", "disk-full"})


def add_options(parser: argparse.ArgumentParser) -> None:
    store.add_settings(parser)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("-a", "--all-tags", action="store_true", help="every tag of the repository")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the names only")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="default: this machine's")


def run(options: argparse.Namespace, paths: Paths) -> int:
    """One after the other; one that fails keeps none of the others from being tried."""
    from runtime.faults import Fault

    failed = False
    refs = [_repository(name) if options.all_tags else store.reference(name) for name in options.names]
    with _images(options, paths) as images:
        for ref in refs:
            try:
                failed |= _pull_all(images, ref, options) if options.all_tags else _pull(images, ref, options)
            except Fault as fault:
                if len(refs) == 1:
                    raise
                print(f"stead: {fault}", file=sys.stderr, flush=True)
                failed = True
    store.wake_agent(paths)
    return int(failed)


def _repository(name: str) -> ImageRef:
    ref = store.reference(name)
    if ref.digest or ":" in name.rpartition("/")[2]:
        raise Problem(f"cannot pull all tags of {name}: write it without a tag", 2)
    return ref


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


def _pull_all(images: ImageStore, ref: ImageRef, options: argparse.Namespace) -> bool:
    """Every tag; whether one of them failed. The others are brought all the same, such as those that are for
    this platform."""
    from runtime.faults import Fault

    failed = False
    for tag in images.registries.tags(ref):
        try:
            _pull(images, tag, options)
        except Fault as fault:
            if fault.code in _ALL_ALIKE:
                raise
            print(f"stead: {fault}", file=sys.stderr, flush=True)
            failed = True
    return failed


def _pull(images: ImageStore, ref: ImageRef, options: argparse.Namespace) -> bool:
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
    return False
