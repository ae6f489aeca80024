"""Effects: `stead create`: a container that no source declares, which does not run yet."""

from __future__ import annotations

import os
import sys

from agent.cli import calling
from agent.cli.containers import options as all_options
from agent.cli.containers import words
from agent.cli.containers.wanted import profile, table
from agent.cli.main import Problem
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths

#: An image that is not there is brought; so often, as somebody may remove it again.
_TRIES = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    all_options.add_options(parser)


def run(options: argparse.Namespace, paths: Paths) -> int:
    made = create(options, paths, auto_remove="now" if options.rm else "")
    print(made["id"])
    return 0


def create(
    options: argparse.Namespace,
    paths: Paths,
    *,
    auto_remove: str,
) -> dict[str, Any]:
    """{id, name}. Its image is brought as --pull says.

    Raises Problem and Fault.
    """
    if options.rm and (options.restart or "no") != "no":
        raise Problem("cannot use --rm with --restart: what is removed is not restarted", 125)
    if options.cidfile and os.path.exists(options.cidfile):
        raise Problem(f"cannot write {options.cidfile}: there is such a file", 125)
    wanted = table(options, os.environ, words.read, os.getcwd())
    asked = {
        "files": profile(wanted, words.read),
        "name": (options.name or "").removeprefix("/"),
        "image": options.image,
        "table": wanted,
        "platform": options.platform or "",
        "volumes_from": options.volumes_from,
        "auto_remove": auto_remove,
    }
    if options.pull == "always":
        _pull(options, paths)
    made = _asked(options, paths, asked)
    if options.cidfile:
        with open(options.cidfile, "x", encoding="ascii") as file:
            file.write(made["id"])
    return made


def _asked(options: argparse.Namespace, paths: Paths, asked: dict[str, Any]) -> dict[str, Any]:
    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            made: dict[str, Any] = calling.call(paths, "create", **asked)
            return made
        except Fault as fault:
            if fault.code != "image-not-found" or options.pull == "never" or last:
                raise
        if not options.quiet:
            print(f"Unable to find image '{options.image}' locally", file=sys.stderr)
        _pull(options, paths)
    raise AssertionError("the last try returns or raises")


def _pull(options: argparse.Namespace, paths: Paths) -> None:
    """As `stead image pull` does, but with all that it says on standard error."""
    import argparse
    from contextlib import redirect_stdout

    from agent.cli.images import pull

    asked = argparse.Namespace(
        names=[options.image],
        platform=options.platform or "",
        quiet=options.quiet,
        all_tags=False,
        settings=None,
    )
    if options.quiet:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            pull.run(asked, paths)
    else:
        with redirect_stdout(sys.stderr):
            pull.run(asked, paths)
