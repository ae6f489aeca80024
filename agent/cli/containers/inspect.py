"""Effects: `stead container inspect`: all that is known of containers, as JSON with docker's keys, and what
Stead knows beyond them in keys of small letters beside."""

from __future__ import annotations

import json
import sys

from agent.cli.main import Problem, need_root
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME")
    add_form(parser)


def add_form(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", default="", metavar="TEMPLATE", help='"json" or a template')
    text = "how much each wrote (SizeRw), and with its image (SizeRootFs)"
    parser.add_argument("-s", "--size", action="store_true", help=text)


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    found, missing = [], []
    for name in options.names:
        try:
            found.append(document(paths, name, size=options.size))
        except Fault as fault:
            missing.append(str(fault))
    show(found, options.format)
    for line in missing:
        print(f"stead: {line}", file=sys.stderr)
    return 1 if missing else 0


def show(documents: list[dict[str, Any]], form: str) -> None:
    """A list, or a line each by a template. Raises Problem."""
    if form not in ("", "json"):
        from agent.cli.template import Template, TemplateError

        try:
            template = Template.read(form)
            for item in documents:
                print(template.render(_open(item)))
        except TemplateError as error:
            raise Problem(f"cannot read format {form!r}: {error}", 2) from error
    elif form == "json":
        print(json.dumps(documents, separators=(",", ":"), ensure_ascii=False))
    else:
        print(json.dumps(documents, indent=4, ensure_ascii=False))


def _open(item: dict[str, Any]) -> dict[str, Any]:
    """Keys that users choose may be asked for whether they are there or not, and as with docker what a probe
    says: `{{if .State.Health}}`."""
    from agent.cli.template import Open
    from agent.cli.template_functions import Written

    config, network = {"Healthcheck": None, **item["Config"]}, dict(item["NetworkSettings"])
    for key in ("Labels", "ExposedPorts", "Volumes"):
        config[key] = Open(config.get(key) or {})
    for key in ("Ports", "Networks"):
        network[key] = Open(network[key])
    state = Written({"Health": None, **item["State"]}, item["State"])
    return {**item, "State": state, "Config": Written(config, item["Config"]), "NetworkSettings": network}


def document(paths: Paths, name: str, *, size: bool = False) -> dict[str, Any]:
    """Fault container-not-found."""
    from contextlib import closing

    from agent.cli.containers.document import document as as_docker
    from agent.cli.containers.seen import Seen
    from agent.cli.jobs import known
    from runtime import attend
    from runtime.database import connect
    from runtime.net.records import read_networks

    record = attend.find(paths, name)
    item = Seen(paths, record, attend.read_ports(paths).get(record.id, []))
    with closing(connect(paths.database, readonly=True)) as connection:
        networks = read_networks(connection)
    found = as_docker(item, networks)
    if size:
        found |= _sizes(paths, record.id, record.image_id)
    job = known.told(paths).get(record.name)
    return {**found, **attend.inspect_container(paths, record.id), "phase": item.phase, "job": job}


def _sizes(paths: Paths, id: str, image: str) -> dict[str, int]:
    from contextlib import closing

    from runtime.database import connect
    from runtime.images.listing import read_images
    from runtime.usage import tree_size

    own = tree_size(paths.container(id) / "upper")
    with closing(connect(paths.database, readonly=True)) as connection:
        images = read_images(connection, image)
    return {"SizeRw": own, "SizeRootFs": own + (images[0].size if images else 0)}
