"""Effects: `stead container diff`."""

from __future__ import annotations

from agent.cli.containers import writings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    """A: added, C: changed, D: deleted. A name that is no text is shown escaped."""
    with writings.of(options.name, paths) as (found, record):
        for change in found.diff(record):
            print(str(change).encode("utf-8", "backslashreplace").decode())
    return 0
