"""Effects: the arguments of `stead` are read, and the command that they name is called."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
from functools import cache
from pathlib import Path

from agent.cli.main import COMMANDS, roots
from runtime.paths import Paths
from runtime.roots import ROOT, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.cli.main import Commands

    Parser = argparse.ArgumentParser


def call(words: Sequence[str]) -> int:
    """The exit code of the command."""
    collecting = gc.isenabled()
    gc.disable()  # what is imported stays: a tenth of a short command's time would go into looking at it
    try:
        options = _parser(words).parse_args(words)
    except SystemExit as end:
        if end.code == 2 and roots(words)[2][:1] == ["run"]:
            raise SystemExit(125) from None  # its other codes are those of programs
        raise
    finally:
        if collecting:
            gc.enable()
    options.words = roots(words)[2]
    if isinstance(getattr(options, "command", None), list):
        options.command = _remainder(options.words, options.command)
    run: Callable[[argparse.Namespace, Paths], int] = options.run_command
    return run(options, Paths(Path(options.root).absolute(), Path(options.run).absolute()))


def _remainder(words: Sequence[str], command: list[str]) -> list[str]:
    """A container's command, at the end of `words`, as it was typed: argparse takes a `--` that it begins
    with for its own, which only one before the name of the container or image is."""
    before = len(words) - len(command) - 1
    return ["--", *command] if before >= 0 and words[before] == "--" else command


class _Version(argparse.Action):
    """It ends with its line, whatever else was asked."""

    def __call__(self, *_: object) -> None:
        from agent.process import release

        print(f"stead {release()}")
        raise SystemExit(0)


class _Formatter(argparse.HelpFormatter):
    """argparse makes one for each option, and would import shutil to know how wide the terminal is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())


@cache
def _width() -> int:
    """Of a line of help, as argparse has it (shutil.get_terminal_size)."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns) - 2
    try:
        return (os.get_terminal_size(1).columns or 80) - 2
    except OSError:
        return 78


def _parser(words: Sequence[str]) -> Parser:
    """Only the command that is named is there and knows its options; else, for --help, all are."""
    parser = argparse.ArgumentParser(
        prog="stead",
        description="Keep this machine in the state that a git repository or a directory declares.",
        epilog="`stead COMMAND --help` shows its options and an example.",
        formatter_class=_Formatter,
    )
    root, run = os.environ.get("STEAD_ROOT", ROOT), os.environ.get("STEAD_RUN", RUN)
    parser.add_argument("--root", default=root, metavar="DIR", help="lasting state (STEAD_ROOT)")
    parser.add_argument("--run", default=run, metavar="DIR", help="state until the next boot (STEAD_RUN)")
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version this is")
    _add_commands(parser, COMMANDS, words, roots(words)[2])
    return parser


def _add_commands(parser: Parser, commands: Commands, words: Sequence[str], rest: Sequence[str]) -> None:
    """A module has VERBS, which are commands below it, or add_options(parser) and run(options, paths).
    `rest` are the words from the command on; none where that is not known before they are parsed."""
    # with `prog`, since argparse would format a usage to know it
    verbs = parser.add_subparsers(metavar="COMMAND", required=True, prog=parser.prog)
    named = rest[0] if rest else ""
    for verb, (module, text, example) in commands.items():
        if named in commands and verb != named:
            continue
        command = verbs.add_parser(
            verb,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example: {example}",
            formatter_class=_Formatter,
        )
        if verb not in words:
            continue
        loaded = importlib.import_module(f"agent.cli.{module}")
        if hasattr(loaded, "VERBS"):
            _add_commands(command, loaded.VERBS, words, rest[1:])
        else:
            loaded.add_options(command)
            command.set_defaults(run_command=loaded.run)
