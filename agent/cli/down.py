"""Effects: `stead down DIR`: remove what the directory declared; its volumes, and what is in them,
only when told.
"""

from __future__ import annotations

from pathlib import Path

from agent.cli import apply, specs
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    apply.add_options(parser)
    parser.add_argument("--volumes", action="store_true", help="remove its volumes and their data too")


def run(options: argparse.Namespace, paths: Paths) -> int:
    """A directory whose specs do not resolve any more is taken down all the same, by the name of its
    source.
    """
    from agent.settings import source_name
    from specs.desired import Desired

    need_root()
    settings = specs.settings_of(options)
    found = specs.read(options, settings, built=False)
    name = options.name or source_name(Path(options.directory).resolve().name)
    wanted = found.desired or Desired(source=name)
    result = apply.converge(
        paths, settings, wanted, found.revision, options.timeout, down=True, volumes=options.volumes
    )
    return apply.report(result, f"nothing of source {name} is left")
