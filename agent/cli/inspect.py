"""Effects: `stead inspect`: what is known of things, as JSON: by `KIND NAME` one, by `NAME...` as docker."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from runtime.paths import Paths

KINDS = ("container", "network", "volume", "image")


def add_options(parser: argparse.ArgumentParser) -> None:
    from agent.cli.containers import inspect

    text = "of one kind after the word container, image, network or volume; else of whatever has the name"
    parser.add_argument("names", nargs="+", metavar="[KIND] NAME", help=text)
    parser.add_argument("--type", choices=KINDS, default="", help="only things of this kind")
    inspect.add_form(parser)


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    words = options.names
    if len(words) == 2 and words[0] in KINDS and not options.type:
        found = _of_kind(paths, words[0], words[1], options)
        if options.format:
            _show([found], options.format)
        else:
            print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    documents, missing = [], []
    for name in words:
        document = _of_any(paths, name, options)
        if document is None:
            missing.append(name)
        else:
            documents.append(document)
    _show(documents, options.format)
    for name in missing:
        print(f"stead: there is no such {options.type or 'object'}: {name}", file=sys.stderr)
    return 1 if missing else 0


def _show(documents: list[dict[str, Any]], form: str) -> None:
    from agent.cli.containers import inspect
    from agent.cli.template import Template, TemplateError

    if form in ("", "json") or all("NetworkSettings" in item for item in documents):
        inspect.show(documents, form)
        return
    try:
        template = Template.read(form)
        for item in documents:
            print(template.render(item))
    except TemplateError as error:
        raise Problem(f"cannot read format {form!r}: {error}", 2) from error


def _of_any(paths: Paths, name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """The first kind that has such a thing, as docker looks for them."""
    from runtime.faults import Fault

    for kind in (options.type,) if options.type else ("container", "image", "network", "volume"):
        try:
            return _of_kind(paths, kind, name, options)
        except Fault as fault:
            if not fault.code.endswith("-not-found") or "fit" in fault.cause:
                raise
        except Problem:
            continue
    return None


def _of_kind(paths: Paths, kind: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    if kind == "container":
        from agent.cli.containers import inspect

        return inspect.document(paths, name, size=options.size)
    if kind == "image":
        return _image(paths, name)
    from runtime.local import LocalRuntime

    with LocalRuntime(paths) as runtime:
        observed = runtime.observe()
    things: dict[str, Mapping[str, Any]] = {"network": observed.networks, "volume": observed.volumes}
    found = things[kind].get(name) or _by_last_part(things[kind], name)
    if found is None:
        known = ", ".join(sorted(things[kind])[:5]) or "none"
        raise Problem(f"there is no {kind} {name} (there: {known})")
    return asdict(found)


def _image(paths: Paths, name: str) -> dict[str, Any]:
    """As `stead image inspect` shows it."""
    from agent.cli.images import inspect, rows

    with rows.catalog(paths) as catalog:
        return inspect.document(catalog, paths, name)


def _by_last_part(things: Mapping[str, Any], name: str) -> Any:
    """The one thing of this name in whatever project, as containers are found; None for none or several."""
    fits = [thing for full, thing in things.items() if full.rpartition("/")[2] == name]
    return fits[0] if len(fits) == 1 else None
