"""Effects: the options of commands that are attached to a container: when they leave it, and what they pass
on."""

from __future__ import annotations

from agent.cli.containers.detaching import DEFAULT, read_keys
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    text = f"what leaves the container alone ({DEFAULT})"
    parser.add_argument("--detach-keys", default=DEFAULT, metavar="KEYS", help=text)
    words = ("true", "false")
    parser.add_argument(
        "--sig-proxy", nargs="?", const="true", default="true", choices=words, help="pass signals on (true)"
    )


def keys_of(options: argparse.Namespace) -> bytes:
    try:
        return read_keys(options.detach_keys)
    except ValueError as error:
        raise Problem(str(error), 125) from None
