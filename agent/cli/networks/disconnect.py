"""Effects: `stead network disconnect`: a container leaves a network, whatever runs in it."""

from __future__ import annotations

import sys

from agent.cli.images import store
from agent.cli.main import Problem, need_root
from agent.cli.networks import rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("-f", "--force", action="store_true", help="no matter if it is not on it")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime import attend
    from runtime.local import LocalRuntime

    need_root()
    found = attend.find(paths, options.container)
    with LocalRuntime(paths) as runtime:
        record = rows.meant(rows.networks(runtime.database.read()), options.network)
        on = [network for network, _ in runtime.fabric.addresses(found.id)]
        if record.name not in on:
            if options.force:
                return 0
            raise Problem(f"container {found.name} is not on network {record.name}")
        declared = any(item.network == record.name for item in found.decode().networks)
        runtime.containers.disconnect(found.name, record.name)
    if declared:
        text = f"its source declares {found.name} on {record.name}: the agent connects it again"
        print(f"stead: {text}; suspend the container to keep it off", file=sys.stderr)
    store.wake_agent(paths)
    return 0
