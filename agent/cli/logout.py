"""Effects: `stead logout`."""

from __future__ import annotations

from agent.cli import login

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    login.add_place(parser)


def run(options: argparse.Namespace, paths: Paths) -> int:
    host, config, _ = login.place(options)
    found = config.erase(host)
    print(f"{'Removing login credentials for' if found else 'Not logged in to'} {host}")
    return 0
