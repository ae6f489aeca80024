"""Effects: `stead agent`: the agent in the foreground, until SIGTERM or SIGINT; containers live on."""

from __future__ import annotations

import sys

from agent.cli import specs
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--settings", metavar="FILE", help="settings (default: /etc/stead/stead.toml if there)"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    import asyncio
    import logging
    from contextlib import closing

    from agent.loop import run_agent
    from agent.machine import open_runtime

    need_root()
    settings = specs.settings_of(options)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    with closing(open_runtime(paths, settings)) as runtime:
        return asyncio.run(run_agent(settings, paths, runtime))
