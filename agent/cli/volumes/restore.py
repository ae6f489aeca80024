"""Effects: `stead volume restore NAME FILE`: what a backup holds becomes the volume's data."""

from __future__ import annotations

from pathlib import Path

from agent.cli import formatting
from agent.cli.images.store import wake_agent
from agent.cli.main import need_root
from agent.cli.volumes.names import alone, meant

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume", metavar="NAME", help="of the volume, which is made where there is none")
    parser.add_argument("file", metavar="FILE", help="what `stead volume backup` wrote")
    parser.add_argument("--force", action="store_true", help="replace data that the volume has")
    parser.add_argument("--stop", action="store_true", help="stop its containers, and start them again")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.local import LocalRuntime

    need_root()
    with alone(paths, needed=options.stop) as foreign, LocalRuntime(paths) as runtime:
        volume = meant(options.volume, [item.name for item in runtime.volumes.list()])
        summary = runtime.backups.restore(
            volume, Path(options.file).absolute(), force=options.force, stop=options.stop, foreign=foreign
        )
    wake_agent(paths)
    size = formatting.size(summary.size)
    print(f"{volume}: {size} in {summary.entries} entries, as {summary.volume} was at {_time(summary.at)}")
    return 0


def _time(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
