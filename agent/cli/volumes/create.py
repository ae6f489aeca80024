"""Effects: `stead volume create`: a volume that no source declares, which the agent never touches."""

from __future__ import annotations

import secrets

from agent.cli.main import Problem
from agent.cli.volumes import rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="VOLUME")
    parser.add_argument("-d", "--driver", default="local", choices=("local",), help="what makes it")
    parser.add_argument("--label", action="append", default=[], metavar="KEY[=VALUE]")
    parser.add_argument(
        "-o", "--opt", action="append", default=[], metavar="KEY=VALUE", help="type, device, o, size, loop"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    """Prints the name. One that is there already is left as it is, and must not be wanted otherwise."""
    from runtime.wishes import VolumeRequest

    asked = _pairs(options.opt, needs_value=True)
    request = VolumeRequest(
        options.name or secrets.token_hex(32), "", "", _pairs(options.label), options=asked
    )
    with rows.changing(paths) as volumes:
        have = volumes.get(request.name) if options.name else None
        if have is None:
            volumes.create(request, anonymous=not options.name)
        elif asked and asked != dict(have.options):
            raise Problem(f"cannot create volume {have.name}: it is there with other options")
    print(request.name)
    return 0


def _pairs(words: Sequence[str], *, needs_value: bool = False) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or (needs_value and not equals):
            raise Problem(f"cannot read {word!r}: write KEY=VALUE", 2)
        found[key] = value
    return found
