"""Effects: `stead container diff`."""

from __future__ import annotations

from agent.cli.containers import writings
from agent.cli.formatting import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    """A: added, C: changed, D: deleted. Of a name what is no text, or what a terminal would obey, is shown
    escaped: a line is one change."""
    with writings.of(options.name, paths) as (found, record):
        for change in found.diff(record):
            print(visible(str(change)).encode("utf-8", "backslashreplace").decode())
    return 0
