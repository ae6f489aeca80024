"""Effects: `stead update`: limits and the restart policy of containers change while they run."""

from __future__ import annotations

from agent.cli.containers.several import each
from agent.cli.containers.words import whole
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths

#: option, metavar, help
_OPTIONS = (
    ("--blkio-weight", "10-1000", "weight of its input and output, 500 is the usual one"),
    ("--cpu-period", "MICROSECONDS", "of the quota; 100000 unless said"),
    ("--cpu-quota", "MICROSECONDS", "of processor time in each period"),
    ("-c --cpu-shares", "NUMBER", "weight among containers, 1024 is the usual one"),
    ("--cpus", "NUMBER", "processors"),
    ("--cpuset-cpus", "0-2,4", "which processors"),
    ("-m --memory", "SIZE", "memory limit"),
    ("--memory-reservation", "SIZE", "memory that it keeps when others want some"),
    ("--memory-swap", "SIZE", "memory and swap together; -1: no limit of swap"),
    ("--pids-limit", "NUMBER", "processes; -1: no limit"),
    ("--restart", "POLICY", "no, on-failure[:N], always, unless-stopped"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    for names, metavar, text in _OPTIONS:
        parser.add_argument(*names.split(), metavar=metavar, help=text)
    parser.add_argument("names", nargs="+", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    table = asked(options)
    if not table:
        raise Problem("cannot update: say what is to change; see `stead update --help`", 1)
    return each(paths, "update", options.names, table=table)


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """The keys of [container.NAME] that change. Raises Problem."""
    found: dict[str, Any] = {}
    for name, key in (
        ("cpus", "cpus"),
        ("cpuset_cpus", "cpuset"),
        ("memory", "memory"),
        ("memory_reservation", "memory_reservation"),
        ("memory_swap", "memory_swap"),
        ("restart", "restart"),
    ):
        if (value := getattr(options, name)) is not None:
            found[key] = value
    if options.cpu_quota is not None or options.cpu_period is not None:
        if options.cpus is not None:
            raise Problem("cannot use --cpus with --cpu-quota or --cpu-period: they say the same", 1)
        quota = whole("--cpu-quota", options.cpu_quota or "0")
        period = whole("--cpu-period", options.cpu_period or "100000")
        if quota <= 0 or period <= 0:
            raise Problem("cannot use --cpu-period: it needs a --cpu-quota, both of them above 0", 1)
        found["cpus"] = str(quota / period)
    if options.cpu_shares is not None:
        found["cpu_weight"] = max(1, round(whole("--cpu-shares", options.cpu_shares) * 100 / 1024))
    if options.blkio_weight is not None:
        weight = whole("--blkio-weight", options.blkio_weight)
        if not 10 <= weight <= 1000:
            raise Problem(f"cannot use --blkio-weight {weight}: it is 10 to 1000", 1)
        found["io_weight"] = weight // 5
    if options.pids_limit is not None:
        found["pids"] = whole("--pids-limit", options.pids_limit)
    return found
