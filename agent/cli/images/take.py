"""Effects: `stead image import`."""

from __future__ import annotations

from pathlib import Path

from agent.cli.images import store
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    store.add_settings(parser)
    text = "root filesystem, OCI layout or docker-archive; also a tar"
    parser.add_argument("path", metavar="PATH", help=text)
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    with store.opened(options, paths) as runtime:
        path = Path(options.path).absolute()
        if not path.exists():
            raise Problem(f"cannot import {options.path}: no such file or directory")
        print(runtime.import_image(path, store.reference(options.name)))
    store.wake_agent(paths)
    return 0
