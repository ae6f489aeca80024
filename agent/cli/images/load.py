"""Effects: `stead image load`."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.cli.images import store
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "docker-archive or OCI layout, a tar (also compressed) or a directory; without it: standard input"
    parser.add_argument("-i", "--input", default="-", metavar="PATH", help=text)
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of what was loaded")
    parser.add_argument(
        "--platform", default="", metavar="OS/ARCH", help="of images for several (default: this machine's)"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    path = input_path(options.input, "load images")
    with store.local(paths) as images:
        for loaded in images.load(path, platform=options.platform):
            if options.quiet:
                continue
            for name in loaded.names:
                print(f"Loaded image: {name.familiar}", flush=True)
            if not loaded.names:
                print(f"Loaded image ID: {loaded.id}", flush=True)
    store.wake_agent(paths)
    return 0


def input_path(text: str, operation: str) -> Path:
    """`-` is standard input, which must not be a terminal. Problem where nothing is there."""
    if text == "-":
        if sys.stdin.isatty():
            raise Problem(f"cannot {operation}: standard input is a terminal; name a file or use a pipe", 2)
        return Path("/dev/stdin")
    path = Path(text).absolute()
    if not path.exists():
        raise Problem(f"cannot {operation}: {text}: no such file or directory")
    return path
