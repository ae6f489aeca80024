"""Effects: `stead image push`."""

from __future__ import annotations

import sys

from agent.cli.images import store
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from runtime.images.push import PushProgress
    from runtime.local import LocalRuntime
    from runtime.paths import Paths
    from specs.values import ImageRef


def add_options(parser: argparse.ArgumentParser) -> None:
    store.add_settings(parser)
    parser.add_argument("name", metavar="NAME[:TAG]")
    parser.add_argument("-a", "--all-tags", action="store_true", help="push all tags of the repository")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the names only")
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help="fail unless the image is for it")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with store.opened(options, paths) as runtime:
        for ref in _names(runtime, options):
            if not options.quiet:
                print(f"The push refers to repository [{ref.name}]", flush=True)
            pushed = runtime.images.push(ref, platform=options.platform, listener=listener(options.quiet))
            if options.quiet:
                print(ref)
            else:
                print(f"{ref.tag}: digest: {pushed.digest} size: {pushed.size}", flush=True)
    return 0


def _names(runtime: LocalRuntime, options: argparse.Namespace) -> list[ImageRef]:
    ref = store.reference(options.name)
    if not options.all_tags:
        return [ref]
    if ref.digest or options.name.rpartition("/")[2].count(":"):
        raise Problem(f"cannot push all tags of {options.name}: write it without a tag", 2)
    known = [store.reference(name) for image in runtime.images.list() for name in image.names]
    found = sorted((item for item in known if item.name == ref.name and item.tag), key=str)
    if not found:
        raise Problem(f"cannot push {options.name}: no image here has that name")
    return found


_WORDS = {"exists": "Layer already exists", "pushed": "Pushed", "foreign": "Skipped foreign layer"}


def listener(is_quiet: bool) -> Callable[[PushProgress], None]:
    """Prints what becomes of each blob."""
    return (lambda _: None) if is_quiet else _Lines()


class _Lines:
    """One line when a blob's fate is known; on a terminal also how far the large ones are."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()

    def __call__(self, progress: PushProgress) -> None:
        name = progress.digest.partition(":")[2][:12]
        if progress.state == "waiting":
            return
        if progress.state == "pushing":
            if self._live:
                percent = progress.done * 100 // max(progress.total, 1)
                print(f"\r\x1b[K{name}: Pushing {percent} %", end="", flush=True)
            return
        words = f"Mounted from {progress.source}" if progress.source else _WORDS[progress.state]
        print(f"{chr(13) + chr(27) + '[K' if self._live else ''}{name}: {words}", flush=True)
