"""Decisions: `--filter` of ps and `container prune`: which containers are meant.

As docker: id and name (a part of it), label, status, health, ancestor (an image), network, volume (a name or
a path), publish, expose, exited, before and since (a container), is-task, until. Ours: source, project.
"""

from __future__ import annotations

import re

from agent.cli.images.choosing import moment
from agent.cli.main import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agent.cli.containers.seen import Seen

    Test = Callable[[Seen], bool]

STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
HEALTHS = ("starting", "healthy", "unhealthy", "none")
UNMANAGED = "unmanaged"
FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network",
    "project", "publish", "since", "source", "status", "volume",
)  # fmt: skip
#: of several of these every one must fit; of all others any may
_ALL = ("label", "label!")


def read(words: Sequence[str], allowed: Collection[str] = FILTERS) -> dict[str, list[str]]:
    """`words` are KEY=VALUE. Raises Problem."""
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise Problem(f"cannot read filter {word!r}: write KEY=VALUE", 2)
        if key.removesuffix("!") not in allowed or (key.endswith("!") and key != "label!"):
            raise Problem(f"cannot read filter {word!r}: the filters are {', '.join(sorted(allowed))}", 2)
        if key == "status" and value not in STATUSES:
            raise Problem(f"cannot read filter {word!r}: write one of {', '.join(STATUSES)}", 2)
        if key == "health" and value not in HEALTHS:
            raise Problem(f"cannot read filter {word!r}: write one of {', '.join(HEALTHS)}", 2)
        if key == "exited" and not re.fullmatch(r"-?\d+", value):
            raise Problem(f"cannot read filter {word!r}: write an exit code", 2)
        found.setdefault(key, []).append(value)
    return found


def chosen(filters: dict[str, list[str]], everything: Sequence[Seen], now: float = 0.0) -> list[Seen]:
    """Raises Problem, also for a container of `before` or `since` that is not there."""
    tests = [_test(key, values, everything, now) for key, values in filters.items()]
    return [item for item in everything if all(test(item) for test in tests)]


def _test(key: str, values: list[str], everything: Sequence[Seen], now: float) -> Test:
    single = [_one(key, value, everything, now) for value in values]
    if key in _ALL:
        return lambda item: all(test(item) for test in single)
    return lambda item: any(test(item) for test in single)


def _one(key: str, value: str, everything: Sequence[Seen], now: float) -> Test:
    match key:
        case "id":
            return lambda item: item.record.id.startswith(value)
        case "name":
            pattern = _regular(value)
            return lambda item: any(map(pattern.search, (item.record.name, f"/{item.record.name}")))
        case "label" | "label!":
            return lambda item: _labelled(item, value) is (key == "label")
        case "status":
            return lambda item: item.docker_state == value
        case "health":
            return lambda item: item.health == value
        case "exited":
            return lambda item: item.docker_state in ("exited", "dead") and item.exit_code == int(value)
        case "ancestor":
            return _of_image(value)
        case "network":
            return lambda item: any(value in (name, name.rpartition("/")[2]) for name in item.networks)
        case "volume":
            return lambda item: any(_is_mount(mount, value) for mount in item.mounts)
        case "publish" | "expose":
            ports = _ports(value)
            return lambda item: bool(ports & _ports_of(item, key))
        case "before":
            at = _meant(everything, value).record.created_at
            return lambda item: item.record.created_at < at
        case "since":
            at = _meant(everything, value).record.created_at
            return lambda item: item.record.created_at > at
        case "until":
            until = moment(value, now)
            return lambda item: item.record.created_at < until
        case "source":
            return lambda item: (item.record.source or UNMANAGED) == value
        case "project":
            return lambda item: item.record.project == value
        case _:  # is-task: there are none here
            return lambda item: value.lower() in ("false", "0", "f")


def _regular(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error:
        return re.compile(re.escape(text))


def _labelled(item: Seen, text: str) -> bool:
    key, equals, value = text.partition("=")
    labels = item.labels
    return key in labels and (not equals or labels[key] == value)


def _of_image(text: str) -> Test:
    """By a name with or without its tag, or by an id; images that were made from it are not followed."""
    from specs.values import ImageRef

    try:
        ref = str(ImageRef.parse(text))
    except ValueError:
        ref = ""
    digits = text.removeprefix("sha256:")
    is_id = len(digits) >= 3 and re.fullmatch("[0-9a-f]+", digits) is not None
    return lambda item: (
        item.record.image == ref
        or (is_id and item.record.image_id.removeprefix("sha256:").startswith(digits))
    )


def _is_mount(mount: dict[str, object], text: str) -> bool:
    source = str(mount.get("source") or "")
    return text in (source, source.rpartition("/")[2] if mount.get("kind") == "volume" else source) or (
        mount.get("target") == text
    )


def _ports(text: str) -> set[tuple[int, str]]:
    """ "80", "80/udp", "8000-8010/tcp". Raises Problem."""
    ports, _, protocol = text.partition("/")
    first, _, last = ports.partition("-")
    if not first.isdigit() or (last and not last.isdigit()):
        raise Problem(f"cannot read port {text!r}: write 80, 80/udp or 8000-8010", 2)
    return {(port, protocol or "tcp") for port in range(int(first), int(last or first) + 1)}


def _ports_of(item: Seen, key: str) -> set[tuple[int, str]]:
    """`publish` looks at both sides of a published port, as docker does."""
    inner = {(port["container_port"], port["protocol"]) for port in item.ports}
    if key == "publish":
        return inner | {(port["host_port"], port["protocol"]) for port in item.ports}
    exposed = [_ports(text) for text in item.exposed]
    return inner.union(*exposed)


def _meant(everything: Sequence[Seen], text: str) -> Seen:
    for item in everything:
        if text in (item.record.name, item.record.id):
            return item
    fits = [item for item in everything if item.record.name.rpartition("/")[2] == text]
    if not fits and len(text) >= 3:
        fits = [item for item in everything if item.record.id.startswith(text)]
    if len(fits) != 1:
        raise Problem(f"there is no such container: {text}")
    return fits[0]
