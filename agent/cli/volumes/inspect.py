"""Effects: `stead volume inspect`: all that is known of volumes, as JSON or by a template."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from agent.cli.main import Problem
from agent.cli.volumes import rows
from agent.cli.volumes.names import meant

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths
    from runtime.volumes.records import Volume


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="VOLUME")
    parser.add_argument("-f", "--format", default="", metavar="FORMAT", help='"json" or a template')


def run(options: argparse.Namespace, paths: Paths) -> int:
    """Those that are there are shown, also when others are not."""
    found = rows.read(paths)
    volumes = {volume.name: volume for volume in found.volumes}
    documents, missing = [], []
    for name in options.names:
        volume = volumes.get(meant(name, volumes))
        if volume is None:
            missing.append(name)
        else:
            documents.append(document(volume, found))
    _show(documents, options.format)
    for name in missing:
        print(f"stead: there is no volume {name}", file=sys.stderr)
    return 1 if missing else 0


def document(volume: Volume, found: rows.Found) -> dict[str, Any]:
    """Docker's fields, then ours."""
    from runtime.linux import mounts

    made = datetime.fromtimestamp(volume.created, UTC).isoformat(timespec="seconds")
    return {
        "CreatedAt": made,
        "Driver": "local",
        "Labels": dict(volume.labels) or None,
        "Mountpoint": str(volume.path),
        "Name": volume.name,
        "Options": dict(volume.options) or None,
        "Scope": "local",
        "Source": rows.source(volume),
        "Users": list(found.users.get(volume.name, ())),
        "Anonymous": volume.anonymous,
        "Container": found.claimed.get(volume.name, ""),
        "Keep": volume.keep,
        "Mounted": mounts.is_mounted(volume.path),
    }


def _show(documents: list[dict[str, Any]], format: str) -> None:
    if format in ("", "json"):
        indent = 4 if not format else None
        print(json.dumps(documents, indent=indent, ensure_ascii=False))
        return
    from agent.cli.template import Template, TemplateError

    try:
        template = Template.read(format)
        for item in documents:
            print(template.render(item))
    except TemplateError as error:
        raise Problem(f"cannot read format {format!r}: {error}", 2) from error
