"""Effects: `stead cp`: files between this machine and a container, which may run or not, or a tar of them."""

from __future__ import annotations

import os
import sys

from agent.cli import formatting
from agent.cli.main import Problem, need_root, unreadable_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.cp.copying import Copying
    from runtime.paths import Paths
    from runtime.records import ContainerRecord


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "keep owners when copying out; when copying in, all becomes the container's user's"
    parser.add_argument("-a", "--archive", action="store_true", help=text)
    parser.add_argument("-L", "--follow-link", action="store_true", help="copy what a link SOURCE leads to")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing when it is done")
    parser.add_argument("source", metavar="[NAME:]SOURCE", help="a path, of a container's or here; -: a tar")
    parser.add_argument("destination", metavar="[NAME:]DESTINATION")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    source, destination = split(options.source), split(options.destination)
    if source[0] and destination[0]:
        raise Problem("copying between containers is not supported", 1)
    if not source[0] and not destination[0]:
        raise Problem("must specify at least one container source", 1)
    name = source[0] or destination[0]
    for one, path in (source, destination):
        if one and not path:  # `web:$DIR` of a script whose variable is empty: never the whole root
            raise Problem(f"cannot copy with container {one}: its path is empty; write {one}:/", 1)
    size = _copy(options, paths, name, source[1], destination[1], out=bool(source[0]))
    if not options.quiet and sys.stderr.isatty() and options.destination != "-":
        print(f"Successfully copied {formatting.size(size)} to {options.destination}", file=sys.stderr)
    return 0


def split(text: str) -> tuple[str, str]:
    """(container, path); no container where the text is a path here: absolute, or beginning with a dot."""
    if text.startswith(("/", ".")) or ":" not in text:
        return "", text
    name, _, path = text.partition(":")
    return name, path


def _copy(
    options: argparse.Namespace, paths: Paths, name: str, source: str, destination: str, *, out: bool
) -> int:
    from agent.cli.images import store
    from runtime.attend import find
    from runtime.cp.copying import Copying

    record = find(paths, name)
    with store.local(paths) as images:
        copying = Copying(paths, images, record)
        if out and destination == "-":
            if os.isatty(1):
                raise Problem("cannot write a tar to a terminal: redirect standard output")
            sys.stdout.flush()
            return copying.archive(source, 1, follow=options.follow_link)
        if out:
            here = os.path.join(os.getcwd(), destination)
            keep = options.archive
            return copying.out(source, here, follow=options.follow_link, keep_owner=keep)
        owner = _owner(paths, record) if options.archive else None
        if source == "-":
            return _extract(copying, destination, owner)
        here = os.path.join(os.getcwd(), source)
        return copying.into(here, destination, follow=options.follow_link, owner=owner)


def _extract(copying: Copying, destination: str, owner: tuple[int, int] | None) -> int:
    """Standard input, which may be compressed, passes through a process of its own."""
    from runtime.images.compression import CompressionError, decompressed

    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.close(reading)
            for piece in decompressed(sys.stdin.buffer):
                view = memoryview(piece)
                while view:
                    view = view[os.write(writing, view) :]
        except BrokenPipeError:  # nobody needs more of it
            pass
        except (OSError, CompressionError):
            os._exit(1)
        os._exit(0)
    os.close(writing)
    try:
        found = copying.extract(reading, destination, owner=owner)
    finally:
        os.close(reading)
        _, status = os.waitpid(pid, 0)
    if status:
        raise Problem(unreadable_input() or "cannot read standard input: it is damaged")
    return found


def _owner(paths: Paths, record: ContainerRecord) -> tuple[int, int] | None:
    """The container's user as its last start found him; None: it was never started, or is root's."""
    from runtime.attend import read_config

    try:
        user = read_config(paths, record)["process"]["user"]
    except FileNotFoundError:
        return None
    return (int(user["uid"]), int(user["gid"])) if user["uid"] or user["gid"] else None
