"""Effects: `stead wait`: until containers have ended; prints their exit codes. Needs no agent."""

from __future__ import annotations

import sys

from agent.cli.main import Problem, need_root
from runtime import attend
from runtime.faults import Fault
from runtime.shim import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths
    from runtime.records import ContainerRecord


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    """One that is not there, or is lost, keeps none of the others from being waited for."""
    need_root()
    records, wrong = [], []
    for name in options.names:
        try:
            records.append(attend.find(paths, name))
        except Fault as fault:
            wrong.append(str(fault))
    for record in records:
        try:
            print(code_of(paths, record), flush=True)
        except (Problem, Fault) as problem:
            wrong.append(str(problem))
    for text in wrong:
        print(f"stead: {text}", file=sys.stderr)
    return int(bool(wrong))


def code_of(paths: Paths, record: ContainerRecord) -> int:
    """Of the last run, once it has ended for good. One that never ran has 0, as docker says. Fault for one
    that is removed before anybody could see its end."""
    if attend.live_state(paths, record) is not None:
        try:
            with client.attach(paths.live(record.id), stdin=False) as attached:
                code = attached.wait()
                if code is not None:
                    return code
        except client.ShimError as error:
            if client.read_exit(paths.container(record.id)) is None:
                raise Problem(f"cannot wait for {record.name}: {error.message}") from error
    state = client.read_exit(paths.container(record.id))
    if state is None:
        attend.find(paths, record.id)
    return 0 if state is None or state.exit_code is None else int(state.exit_code)
