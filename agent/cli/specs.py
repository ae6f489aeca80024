"""Effects: what `validate`, `plan`, `apply` and `down` have in common: a directory read, or its
problems shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent.cli.main import Problem
from agent.desired import Resolved, Surroundings, load_directory
from agent.settings import Settings, SettingsError, load, source_name
from agent.sources.directory import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="where the spec files are")
    parser.add_argument("--name", default="", help="name of the source (default: the directory's)")
    parser.add_argument(
        "--profile", action="append", default=[], metavar="NAME", help="with the containers of this profile"
    )
    parser.add_argument(
        "--settings", metavar="FILE", help="settings (default: /etc/stead/stead.toml if there)"
    )


def settings_of(options: argparse.Namespace) -> Settings:
    try:
        return load(Path(options.settings) if options.settings else None)
    except SettingsError as error:
        raise Problem("\n".join(error.problems)) from error


def read(
    options: argparse.Namespace, settings: Settings, *, locked: bool = True, built: bool = True
) -> Resolved:
    """Everything that the directory declares; without its lock file unless `locked`. What it builds from is
    looked at when it is to be `built`. Raises Problem where it cannot be read at all."""
    directory = Path(options.directory)
    name = options.name or source_name(directory.resolve().name)
    known = next((source for source in settings.source if source.label == name), None)
    profiles = (*(known.profiles if known else ()), *options.profile)
    variables = known.variables if known else {}
    around = Surroundings(variables, settings.node_name, settings.node.labels, profiles)
    try:
        return load_directory(directory, name=name, around=around, locked=locked, kept=not built)
    except Unreadable as error:
        raise Problem(str(error)) from error


def show_problems(found: Resolved) -> None:
    for line in found.problems:
        print(line, file=sys.stderr)
    count = len(found.problems)
    print(f"{count} problem{'s' if count != 1 else ''}; nothing was changed", file=sys.stderr)
