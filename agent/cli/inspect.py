"""Effects: `stead inspect KIND NAME`: all that is known of one thing, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from agent.cli.main import Problem, need_root
from runtime import attend

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("container", "network", "volume", "image"))
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    if options.kind == "container":
        print(json.dumps(attend.inspect_container(paths, options.name), indent=1))
        return 0
    if options.kind == "image":
        print(json.dumps(_image(paths, options.name), indent=1, ensure_ascii=False))
        return 0
    from runtime.local import LocalRuntime

    with LocalRuntime(paths) as runtime:
        observed = runtime.observe()
    name = options.name
    things: dict[str, Mapping[str, Any]] = {
        "network": observed.networks,
        "volume": observed.volumes,
    }
    found = things[options.kind].get(name) or _by_last_part(things[options.kind], name)
    if found is None:
        known = ", ".join(sorted(things[options.kind])[:5]) or "none"
        raise Problem(f"there is no {options.kind} {options.name} (there: {known})")
    print(json.dumps(asdict(found), indent=1))
    return 0


def _image(paths: Paths, name: str) -> dict[str, Any]:
    """As `stead image inspect` shows it."""
    from agent.cli.images import inspect, rows

    with rows.catalog(paths) as catalog:
        return inspect.document(catalog, paths, name)


def _by_last_part(things: Mapping[str, Any], name: str) -> Any:
    """The one thing of this name in whatever project, as containers are found; None for none or several."""
    fits = [thing for full, thing in things.items() if full.rpartition("/")[2] == name]
    return fits[0] if len(fits) == 1 else None
