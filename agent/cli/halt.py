"""Effects: `stead halt`: end all containers until the next agent starts; systemd calls it at a shutdown."""

from __future__ import annotations

from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent.lock import hold
    from runtime.halt import halt

    need_root()
    with hold(paths, "halt"):
        ended, late = halt(paths)
    print(f"ended {len(ended)} containers; the agent starts them again")
    if late:
        raise Problem(f"cannot end {', '.join(late)}: still running after the grace period")
    return 0
