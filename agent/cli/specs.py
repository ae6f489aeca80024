"""Effects: what `validate`, `plan`, `apply` and `down` have in common: a directory read, or its
problems shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

from agent.cli.main import Problem
from agent.desired import Resolved, Surroundings, load_directory
from agent.settings import Settings, SettingsError, is_source_name, load, source_name
from agent.sources.directory import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


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
    options: argparse.Namespace,
    settings: Settings,
    paths: Paths | None = None,
    *,
    locked: bool = True,
    built: bool = True,
) -> Resolved:
    """Everything that the directory declares; without its lock file unless `locked`. What it builds from is
    looked at when it is to be `built`, and its secrets are read when `paths` say where to keep them. Raises
    Problem where it cannot be read at all."""
    name = options.name or source_name(Path(options.directory).resolve().name)
    if not is_source_name(name):
        raise Problem(f"--name {name!r}: write lower-case letters, digits, `_`, `.` and `-`", 2)
    around = surroundings(options, settings, name, paths)
    try:
        return load_directory(
            Path(options.directory), name=name, around=around, locked=locked, kept=not built
        )
    except Unreadable as error:
        raise Problem(str(error)) from error


def surroundings(
    options: argparse.Namespace, settings: Settings, name: str, paths: Paths | None
) -> Surroundings:
    """Of source `name`, where the settings know it."""
    known = next((source for source in settings.source if source.label == name), None)
    profiles = (*(known.profiles if known else ()), *options.profile)
    variables = known.variables if known else {}
    keys = settings.keys(paths)
    return Surroundings(variables, settings.node_name, settings.node.labels, profiles, keys)


def pinned(
    options: argparse.Namespace, paths: Paths, settings: Settings, found: Resolved
) -> tuple[Resolved, str]:
    """What is in force instead of `found`, where a person pinned a revision of its source, and who did."""
    from agent.desired import Shelf, resolve
    from agent.rollouts import opened

    if found.desired is None or not paths.rollouts.exists():
        return found, ""
    name = found.desired.source
    with opened(paths.rollouts) as rollouts:
        pin = rollouts.orders().sources.get(name)
    if pin is None or pin.revision == found.revision.id:
        return found, ""
    kept = Shelf(paths, name).find(pin.revision)
    text = f"source {name}: revision {pin.revision[:12]} is kept in force by {pin.who}"
    text += f"; revision {found.revision.id[:12]} waits for: stead release {name}"
    if kept is None:
        raise Problem(f"{text}; and what it said is not kept any more")
    return resolve(name, kept, surroundings(options, settings, name, paths), kept=True), text


def show_problems(found: Resolved) -> None:
    for line in found.problems:
        print(line, file=sys.stderr)
    count = len(found.problems)
    print(f"{count} problem{'s' if count != 1 else ''}; nothing was changed", file=sys.stderr)
