"""Effects: `stead events`: what happened, and what happens, from the files that everyone appends to, whether
an agent runs or not."""

from __future__ import annotations

import json
import re
import time

from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from runtime.events import Happened
    from runtime.paths import Paths

FILTERS = ("container", "event", "image", "label", "network", "scope", "type", "volume")
TYPES = ("agent", "container", "image", "network", "volume")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser._negative_number_matcher = re.compile("-[0-9]")  # --until -10m: that is no option
    text = "what happened since then, too: how long ago (10m), RFC 3339, seconds since 1970"
    parser.add_argument("--since", metavar="TIME", help=text)
    parser.add_argument("--until", metavar="TIME", help="end there; written as for --since")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--format", default="", metavar="FORMAT", help='"json" or a template')


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent.cli.images.choosing import moment_ns
    from runtime import events

    need_root()
    now = time.time_ns()
    since = now if options.since is None else moment_ns(options.since, now)
    until = None if options.until is None else moment_ns(options.until, now)
    accepts, show = accepting(read_filters(options.filter)), showing(options.format)

    def left() -> float | None:
        return None if until is None else (until - time.time_ns()) / 1e9

    whole = events.follow(paths.root, replay=True, left=left)
    for item in enriched(whole, known(paths)):
        if item.at >= since and (until is None or item.at <= until) and accepts(item):
            print(show(item), flush=True)
    return 0


def known(paths: Paths) -> dict[str, dict[str, str]]:
    """Image and labels of the containers that are there, by id: their shims tell neither."""
    from runtime import attend

    found = {}
    for record in attend.read_all(paths):
        request = json.loads(record.request)
        labels = {str(k): str(v) for k, v in (request.get("labels") or {}).items()}
        found[record.id] = {**labels, "image": request.get("image_called") or record.image}
    return found


def enriched(found: Iterator[Happened], known: dict[str, dict[str, str]]) -> Iterator[Happened]:
    """With what is known of the container, also when it is gone: its first event says it. A shim has the name
    that its container was started with."""
    from dataclasses import replace

    names: dict[str, str] = {}
    for item in found:
        if item.type != "container":
            yield item
            continue
        if item.action == "create":
            known[item.id] = dict(item.attributes)
        if item.action in ("create", "rename"):
            names[item.id] = item.name
        name = names.get(item.id, item.name)
        yield replace(item, name=name, attributes={**known.get(item.id, {}), **item.attributes})
        if item.action == "destroy":
            known.pop(item.id, None)


# ---------------------------------------------------------------- which


def read_filters(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in FILTERS:
            text = f"cannot read filter {word!r}: write KEY=VALUE; the filters are {', '.join(FILTERS)}"
            raise Problem(text, 2)
        if key == "type" and value not in TYPES:
            raise Problem(f"cannot read filter {word!r}: write one of {', '.join(TYPES)}", 2)
        found.setdefault(key, []).append(value)
    return found


def accepting(filters: Mapping[str, Sequence[str]]) -> Callable[[Happened], bool]:
    """Of several of one key any may fit, but of labels all must."""

    def accepts(item: Happened) -> bool:
        return all(
            (all if key == "label" else any)(_fits(item, key, value) for value in values)
            for key, values in filters.items()
        )

    return accepts


def _fits(item: Happened, key: str, value: str) -> bool:
    match key:
        case "type":
            return item.type == value
        case "event":
            return value in (item.action, item.action.partition(":")[0])
        case "label":
            name, equals, wanted = value.partition("=")
            found = item.attributes.get(name)
            return found is not None and (not equals or found == wanted)
        case "image":
            named = [item.name, item.id] if item.type == "image" else [item.attributes.get("image", "")]
            return any(value in _forms(name) for name in named)
        case "scope":
            return value == "local"
        case _:  # container, network, volume
            short = len(value) >= 3 and item.id.startswith(value)
            return item.type == key and (value in (item.name, item.name.rpartition("/")[2], item.id) or short)


def _forms(image: str) -> set[str]:
    """As it may be written: with and without its registry, with and without its tag."""
    from specs.values import ImageRef

    try:
        ref = ImageRef.parse(image)
    except ValueError:
        return {image} - {""}
    names = (str(ref), ref.familiar)
    return {image, *names, *(name.rpartition(":")[0] for name in names)} - {""}


# ---------------------------------------------------------------- how


def showing(form: str) -> Callable[[Happened], str]:
    if not form:
        return line
    if form == "json":
        return lambda item: json.dumps(document(item), separators=(",", ":"), ensure_ascii=False)
    from agent.cli.template import Open, Template, TemplateError
    from agent.cli.template_functions import Written

    try:
        template = Template.read(form)
    except TemplateError as error:
        raise Problem(f"cannot read format {form!r}: {error}", 2) from error

    def show(item: Happened) -> str:
        found = document(item)
        actor = {"ID": item.id, "Attributes": Open(found["Actor"]["Attributes"])}
        fields = {
            "Status": found.get("status", ""),
            "ID": found.get("id", ""),
            "From": found.get("from", ""),
            "Type": item.type,
            "Action": item.action,
            "Actor": actor,
            "Scope": "local",
            "Time": found["time"],
            "TimeNano": item.at,
        }
        try:
            return template.render(Written(fields, found))
        except TemplateError as error:
            raise Problem(f"cannot read format {form!r}: {error}", 2) from error

    return show


def attributes(item: Happened) -> dict[str, str]:
    return dict(sorted({**item.attributes, "name": item.name}.items()))


def line(item: Happened) -> str:
    """As docker: 2026-01-02T03:04:05.000000006+01:00 container die ID (exitCode=1, image=..., name=web)."""
    from agent.cli.formatting import visible

    seconds, rest = divmod(item.at, 1_000_000_000)
    local = time.localtime(seconds)
    zone = time.strftime("%z", local)
    at = time.strftime("%Y-%m-%dT%H:%M:%S", local) + f".{rest:09d}{zone[:3]}:{zone[3:]}"
    said = ", ".join(f"{key}={value}" for key, value in attributes(item).items())
    return visible(f"{at} {item.type} {item.action} {item.id} ({said})")


def document(item: Happened) -> dict[str, Any]:
    """Docker's keys."""
    old: dict[str, Any] = (
        {"status": item.action, "id": item.id} if item.type in ("container", "image") else {}
    )
    if item.type == "container":
        old["from"] = item.attributes.get("image", "")
    return {
        **old,
        "Type": item.type,
        "Action": item.action,
        "Actor": {"ID": item.id, "Attributes": attributes(item)},
        "scope": "local",
        "time": item.at // 1_000_000_000,
        "timeNano": item.at,
    }
