"""Effects: `stead image inspect`: all that is known of images, as JSON or by a template."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from agent.cli.images import rows
from agent.cli.main import Problem
from agent.cli.template import Open, Template, TemplateError
from agent.cli.template_functions import NoList, NoMap
from runtime.faults import Fault
from runtime.images.listing import read_images
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from runtime.images.catalog import Catalog
    from runtime.images.listing import Listed
    from runtime.paths import Paths

#: What docker shows of every config, whether the image says it or not.
CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "ExposedPorts": None,
    "Env": None,
    "Cmd": None,
    "Healthcheck": None,
    "ArgsEscaped": False,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
    "StopSignal": "",
    "Shell": None,
}
_MAPPINGS = frozenset({"ExposedPorts", "Volumes", "Labels"})
_LISTS = frozenset({"Env", "Cmd", "Entrypoint", "OnBuild", "Shell"})
_SHOWN_EMPTY = ("User", "Env", "Cmd", "Volumes", "WorkingDir", "Entrypoint", "OnBuild", "Labels")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="IMAGE")
    parser.add_argument("-f", "--format", default="", metavar="TEMPLATE", help='"json" or a template')


def run(options: argparse.Namespace, paths: Paths) -> int:
    try:
        template = Template.read(options.format) if options.format not in ("", "json") else None
        documents, missing = [], []
        with rows.catalog(paths) as catalog:
            for name in options.names:
                try:
                    documents.append(document(catalog, paths, name))
                except Fault as fault:
                    missing.append(str(fault))
        _show(documents, options.format, template)
    except TemplateError as error:
        raise Problem(f"cannot read format {options.format!r}: {error}", 2) from error
    for line in missing:
        print(f"stead: {line}", file=sys.stderr)
    return 1 if missing else 0


def _show(documents: list[dict[str, Any]], format: str, template: Template | None) -> None:
    if template is not None:
        for item in documents:
            print(template.render({**item, "Config": _full(item["Config"])}))
    elif format == "json":
        print(json.dumps(documents, separators=(",", ":"), ensure_ascii=False))
    else:
        print(json.dumps(documents, indent=4, ensure_ascii=False))


def _full(config: Mapping[str, Any]) -> dict[str, Any]:
    """Templates may ask for every field that docker has; labels and the like are the image's own."""
    full = {**CONFIG, **{key: value for key, value in config.items() if value is not None}}
    found: dict[str, Any] = {}
    for key, value in full.items():
        if isinstance(value, dict):
            found[key] = Open(sorted(value.items()))
        elif value is None:
            found[key] = NoMap() if key in _MAPPINGS else NoList() if key in _LISTS else None
        else:
            found[key] = value
    return found


def document(catalog: Catalog, paths: Paths, name: str) -> dict[str, Any]:
    """Docker's keys. Fault image-not-found."""
    id = catalog.need(name, "inspect image")
    connection = catalog.database.read()
    (listed,) = read_images(connection, id)
    text = connection.execute("SELECT config FROM images WHERE id = ?", (id,)).fetchone()[0]
    config: Mapping[str, Any] = json.loads(text)
    inner = config.get("config") or {}
    found: dict[str, Any] = {
        "Id": id,
        "RepoTags": [ImageRef.parse(item).familiar for item in listed.tags],
        "RepoDigests": [ImageRef.parse(item).familiar for item in listed.digests],
        "Parent": listed.parent,
        "Comment": _comment(config),
        "Created": config.get("created") or "",
        "DockerVersion": config.get("docker_version") or "",
        "Author": config.get("author") or "",
        "Config": {**{key: CONFIG[key] for key in _SHOWN_EMPTY}, **inner},
        "Architecture": config.get("architecture") or "",
        "Os": config.get("os") or "",
        "Size": listed.size,
        "GraphDriver": {"Name": "overlay2", "Data": _directories(listed, paths)},
        "RootFS": {"Type": "layers", "Layers": (config.get("rootfs") or {}).get("diff_ids") or []},
        "Metadata": {
            "Added": _time(listed.added),
            "LastUsed": _time(listed.used),
            "Containers": list(listed.containers),
        },
    }
    if config.get("variant"):
        found["Variant"] = config["variant"]
    return found


def _comment(config: Mapping[str, Any]) -> str:
    history = [step for step in config.get("history") or [] if isinstance(step, dict)]
    return str(config.get("comment") or (history[-1].get("comment") if history else "") or "")


def _directories(listed: Listed, paths: Paths) -> dict[str, str]:
    """Of the layers, as overlay names them: the top one, and those below it from the top down."""
    found = [str(paths.layers / chain_id.partition(":")[2]) for chain_id in reversed(listed.chain)]
    data = {"LowerDir": ":".join(found[1:])} if len(found) > 1 else {}
    return {**data, "UpperDir": found[0]} if found else data


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z") if seconds else ""
