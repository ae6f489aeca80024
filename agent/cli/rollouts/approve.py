"""Effects: `stead approve REVISION`: a revision that waits because it removes much is put in force."""

from __future__ import annotations

import time

from agent.cli.containers import person
from agent.cli.main import Problem
from agent.cli.rollouts import naming

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths

#: characters of a revision that name it
SHORTEST = 6


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REVISION", help="as status shows it, or its beginning")
    parser.add_argument("--source", default="", metavar="NAME", help="of this source only")


def run(options: argparse.Namespace, paths: Paths) -> int:
    if len(options.revision) < SHORTEST:
        raise Problem(f"write at least {SHORTEST} characters of the revision", 2)
    with naming.opened(paths) as rollouts:
        waiting = waits(paths, options.source)
        found = {source: id for source, id in waiting.items() if id.startswith(options.revision)}
        if not found:
            of = f" of source {options.source}" if options.source else ""
            others = ", ".join(f"{id[:12]} of source {source}" for source, id in sorted(waiting.items()))
            cause = f"what waits is {others}" if others else "none waits"
            raise Problem(f"no revision{of} that begins with {options.revision} waits: {cause}")
        for source, id in sorted(found.items()):
            rollouts.approve(source, id, person.who(), time.time())
            print(f"revision {id[:12]} of source {source} may be put in force")
    return 0


def waits(paths: Paths, only: str) -> dict[str, str]:
    """Source -> its newest revision, where that is held back; of all sources unless `only` names one."""
    from agent.journal import read_revisions

    newest: dict[str, tuple[str, str]] = {}
    for entry in read_revisions(paths.journal, source=only, limit=naming.LOOKED_AT):
        newest.setdefault(entry.source, (entry.revision, entry.result))
    return {source: id for source, (id, result) in newest.items() if result == "held"}
