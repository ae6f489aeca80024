"""Effects: the arguments of `stead` are read, and the command that they name is called."""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import os
from functools import cache
from pathlib import Path

from agent.cli.main import COMMANDS, roots
from runtime.paths import Paths
from runtime.roots import ROOT, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from agent.cli.main import Commands

    Parser = argparse.ArgumentParser

#: as Go reads them: strconv.ParseBool
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


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


class _Parser(argparse.ArgumentParser):
    """With docker's long form of flags: `--rm=true`, and `--rm=false` for one that is left out."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(None if args is None else list(self._short(args)), namespace)

    def _short(self, words: Sequence[str]) -> Iterator[str]:
        """What a command or a program has behind the options is as it was."""
        rest = iter(words)
        ends = any(
            one.nargs in (argparse.REMAINDER, argparse.PARSER) for one in self._get_positional_actions()
        )
        for word in rest:
            name, equals, value = word.partition("=")
            action = self._option_string_actions.get(name)
            is_flag = equals and isinstance(action, argparse._StoreTrueAction)
            positional = word in ("", "-") or not word.startswith("-")
            if word == "--" or (ends and positional):
                yield word
                break
            if is_flag and value in _TRUE:
                yield name
            elif not is_flag or value not in _FALSE:
                yield word
                if not equals and not positional and self._takes_more(word):
                    yield from itertools.islice(rest, 1)
        yield from rest

    def _takes_more(self, word: str) -> bool:
        """Whether the next word is this option's; `-it` are two, and only the last one may have a value."""
        action = self._option_string_actions.get(word)
        if action is None and not word.startswith("--"):
            options = [self._option_string_actions.get(f"-{letter}") for letter in word[1:]]
            if all(isinstance(one, argparse._StoreTrueAction) for one in options[:-1]):
                action = options[-1]
        return action is not None and action.nargs is None


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
    parser = _Parser(
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
