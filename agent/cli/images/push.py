"""Effects: `stead image push`."""

from __future__ import annotations

import sys
from contextlib import contextmanager

from agent.cli.images import store
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from runtime.images.push import PushProgress
    from runtime.local import LocalRuntime
    from runtime.paths import Paths
    from specs.values import ImageRef

_WORDS = {
    "waiting": "Waiting",
    "pushing": "Pushing",
    "exists": "Layer already exists",
    "pushed": "Pushed",
    "foreign": "Skipped foreign layer",
}


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
            with told(options.quiet) as listener:
                pushed = runtime.images.push(ref, platform=options.platform, listener=listener)
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


@contextmanager
def told(is_quiet: bool) -> Iterator[Callable[[PushProgress], None]]:
    """What becomes of each blob: bars on a terminal, a line at its end elsewhere."""
    if is_quiet:
        yield lambda _: None
    elif sys.stdout.isatty():
        with _bars() as listener:
            yield listener
    else:
        yield _line


def _line(progress: PushProgress) -> None:
    if progress.state not in ("waiting", "pushing"):
        print(f"{_short(progress)}: {_words(progress)}", flush=True)


@contextmanager
def _bars() -> Iterator[Callable[[PushProgress], None]]:
    from rich import progress as rich

    tasks: dict[str, rich.TaskID] = {}
    words, bar = rich.TextColumn("{task.description}"), rich.BarColumn(bar_width=30)
    with rich.Progress(words, bar, rich.DownloadColumn(), rich.TransferSpeedColumn()) as screen:

        def listener(progress: PushProgress) -> None:
            if progress.digest not in tasks:
                tasks[progress.digest] = screen.add_task("", total=progress.total)
            text = f"{_short(progress)}: {_words(progress)}"
            screen.update(tasks[progress.digest], completed=progress.done, description=text)

        yield listener


def _short(progress: PushProgress) -> str:
    return progress.digest.partition(":")[2][:12]


def _words(progress: PushProgress) -> str:
    return f"Mounted from {progress.source}" if progress.source else _WORDS[progress.state]
