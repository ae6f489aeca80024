"""Effects: `stead oci`: the low-level runtime by itself. Its words are runc's, and read by runtime.oci."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="as runc has them; see stead oci --help")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.oci.main import main

    return main(options.words[1:])
