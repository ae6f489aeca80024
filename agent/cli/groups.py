"""Effects: a command that has commands of its own (`stead image ls`). Each is a module, imported when it is
named; a module has add_options(parser) and run(options, paths), as a command has.
"""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

#: verb -> (module under agent.cli, one line, example)
Verbs = dict[str, tuple[str, str, str]]


def add_verbs(
    parser: argparse.ArgumentParser,
    verbs: Mapping[str, tuple[str, str, str]],
    words: Sequence[str] | None = None,
) -> None:
    """Only the verb that is among `words` (default: the command line) is imported and knows its options."""
    given = sys.argv[1:] if words is None else words
    commands = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for verb, (module, text, example) in verbs.items():
        command = commands.add_parser(
            verb, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"example: {example}"
        )
        if verb in given:
            loaded = importlib.import_module(f"agent.cli.{module}")
            loaded.add_options(command)
            command.set_defaults(run_command=loaded.run)
