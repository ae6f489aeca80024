"""Effects: `stead stop`: the stop signal, a time, SIGKILL. What a source declares stays stopped until `stead
start`."""

from __future__ import annotations

from agent.cli.containers import person, several

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    add_ending(parser)
    text = "said in status, to whoever wonders why what a source declares does not run"
    parser.add_argument("--reason", default="", metavar="TEXT", help=text)
    parser.add_argument("names", nargs="+", metavar="NAME")


def add_ending(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", "--signal", default="", metavar="SIGNAL", help="in the place of its stop signal"
    )
    text = "until SIGKILL, in the place of its stop_grace_period"
    parser.add_argument("-t", "--timeout", "--time", default=None, metavar="SECONDS", help=text)


def run(options: argparse.Namespace, paths: Paths) -> int:
    return several.each(
        paths,
        "stop",
        options.names,
        signal=options.signal,
        timeout=several.seconds(options.timeout),
        who=person.who(),
        terminal=person.terminal(),
        reason=options.reason,
    )
