"""Effects: `stead agent`: the agent in the foreground, until SIGTERM or SIGINT; containers live on."""

from __future__ import annotations

import os
import sys

from agent.cli import specs
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import logging

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
    form = "%(levelname)s %(message)s"
    if _stderr_is_journal():  # which keeps the level: journalctl -u stead -p warning; sd-daemon(3)
        form = "<%(priority)d>%(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
    logging.getLogger().handlers[0].addFilter(_add_priority)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with closing(open_runtime(paths, settings, stays=True)) as runtime:
        return asyncio.run(run_agent(settings, paths, runtime))


def _stderr_is_journal() -> bool:
    """systemd.exec(5), JOURNAL_STREAM."""
    found = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _add_priority(record: logging.LogRecord) -> bool:
    """syslog(3): 7 debug, 6 information, 4 warning, 3 error, 2 critical."""
    record.priority = {10: 7, 20: 6, 30: 4, 40: 3, 50: 2}.get(record.levelno, 5)
    return True
