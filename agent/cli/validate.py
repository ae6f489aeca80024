"""Effects: `stead validate DIR`. Exit 0 without a problem, else 1; warnings change nothing of it. Nothing is
touched, no root is needed."""

from __future__ import annotations

import sys

from agent.cli import specs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from agent.desired import Resolved
    from runtime.paths import Paths

add_options = specs.add_options


def run(options: argparse.Namespace, paths: Paths) -> int:
    found = specs.read(options, specs.settings_of(options))
    if found.desired is None:
        specs.show_problems(found)
        return 1
    for line in _warnings(found):
        print(line, file=sys.stderr)
    wanted = found.desired
    kinds = {"container": wanted.containers, "network": wanted.networks, "volume": wanted.volumes}
    print(", ".join(f"{len(items)} {kind}{'s' if len(items) != 1 else ''}" for kind, items in kinds.items()))
    return 0


def _warnings(found: Resolved) -> list[str]:
    """Bases that may become others though there is a lock file: it was written before bases were locked."""
    from specs.ignore import LOCK_FILE

    wanted = found.desired
    if wanted is None or LOCK_FILE not in found.revision.files:
        return []
    if not any(image.build is not None and image.build.locked is None for image in wanted.images.values()):
        return []
    from agent.buildfiles import bases

    based = bases(wanted)
    return [
        f"{based.places[name]}: warning: base image {ref.familiar!r} is free: {LOCK_FILE} was written"
        " before bases were locked (run stead lock)"
        for name, ref in based.refs.items()
    ]
