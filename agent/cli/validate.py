"""Effects: `stead validate DIR`. Exit 0 without a problem, else 1. Nothing is touched, no root is needed."""

from __future__ import annotations

from agent.cli import specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths

add_options = specs.add_options


def run(options: argparse.Namespace, paths: Paths) -> int:
    found = specs.read(options, specs.settings_of(options))
    if found.desired is None:
        specs.show_problems(found)
        return 1
    wanted = found.desired
    kinds = {"container": wanted.containers, "network": wanted.networks, "volume": wanted.volumes}
    print(", ".join(f"{len(items)} {kind}{'s' if len(items) != 1 else ''}" for kind, items in kinds.items()))
    return 0
