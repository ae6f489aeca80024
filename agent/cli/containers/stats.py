"""Effects: `stead stats`: what containers use of processor, memory, network, disk; once or until Ctrl-C."""

from __future__ import annotations

import sys
import time

from agent.cli import formatting
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

    from runtime.gauges import Use
    from runtime.linux.cgroups import Cgroups
    from runtime.paths import Paths
    from runtime.records import ContainerRecord

HEADS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
PERIOD = 1.0  # seconds between two looks, which a share of a processor is reckoned over
SHORT_ID = 12
_CLEAR, _HOME, _REST_OF_LINE, _REST = "\033[2J\033[H", "\033[H", "\033[K", "\033[J"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="left out: all that run")
    parser.add_argument("-a", "--all", action="store_true", help="also those that do not run")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"table", "json" or a template')
    parser.add_argument("--no-stream", action="store_true", help="once, and no more")
    parser.add_argument("--no-trunc", action="store_true", help="show whole ids")


def run(options: argparse.Namespace, paths: Paths) -> int:
    from runtime.linux import cgroups

    need_root()
    groups = cgroups.detect()
    before = _look(options, paths, groups)
    first, is_terminal = True, sys.stdout.isatty()
    while True:
        time.sleep(PERIOD)
        now = _look(options, paths, groups)
        rows = [_row(item, before.get(item[0].id), now[item[0].id][1], options) for item in now.values()]
        lines = list(formatting.lines(rows, options.format, HEADS, COLUMNS))
        if options.no_stream:
            print("".join(f"{line}\n" for line in lines), end="")
            return 0
        if is_terminal:
            text = (
                (_CLEAR if first else _HOME) + "".join(f"{line}{_REST_OF_LINE}\n" for line in lines) + _REST
            )
        else:
            text = "".join(f"{line}\n" for line in lines)
        sys.stdout.write(text)
        sys.stdout.flush()
        before, first = now, False


def _look(
    options: argparse.Namespace, paths: Paths, groups: Cgroups
) -> dict[str, tuple[ContainerRecord, Use, str]]:
    """By id: the record, what it uses, how it was named. Fault container-not-found for one that is named and
    not there."""
    from runtime import attend, gauges

    named = [(attend.find(paths, name), name) for name in options.names]
    chosen = named or [(record, record.name) for record in attend.read_all(paths)]
    found = {}
    for record, name in chosen:
        state = attend.live_state(paths, record)
        if state is not None and (state.pid or named):
            found[record.id] = (record, gauges.read(groups, state), name)
        elif options.all or named:
            found[record.id] = (record, gauges.Use(), name)
    return found


def _row(
    item: tuple[ContainerRecord, Use, str],
    before: tuple[ContainerRecord, Use, str] | None,
    use: Use,
    options: argparse.Namespace,
) -> dict[str, Any]:
    from runtime import gauges

    record, _, name = item
    cpu = gauges.cpu_percent(before[1], use) if before is not None and before[1].at else 0.0
    return {
        "Container": name,
        "ID": record.id if options.no_trunc else record.id[:SHORT_ID],
        "Name": record.name,
        "CPUPerc": f"{cpu:.2f}%",
        "MemUsage": f"{binary(use.memory)} / {binary(use.limit)}",
        "MemPerc": f"{100 * use.memory / use.limit if use.limit else 0.0:.2f}%",
        "NetIO": _pair(use.rx, use.tx),
        "BlockIO": _pair(use.read, use.written),
        "PIDs": str(use.pids),
    }


def _pair(first: int, second: int) -> str:
    return f"{formatting.size(first)} / {formatting.size(second)}"


def binary(number: float) -> str:
    """Of a binary unit, four digits as docker has it: 1.934MiB."""
    units: Sequence[str] = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units[:-1]:
        if number < 1024:
            return f"{number:.4g}{unit}"
        number /= 1024
    return f"{number:.4g}{units[-1]}"
