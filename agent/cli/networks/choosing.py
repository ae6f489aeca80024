"""Decisions: `--filter` of `network ls` and `network prune`: which networks are meant.

As docker: dangling (no container is on it), driver, id (its beginning), label, name (a part of it), scope,
type (custom: no source declares it; builtin has none here), until (a time or how long ago). Ours: source.
"""

from __future__ import annotations

import json

from agent.cli.images.choosing import moment
from agent.cli.main import Problem
from agent.cli.networks.rows import UNMANAGED, id_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from runtime.net.records import NetworkRecord

_TRUE, _FALSE = ("1", "true", "t"), ("0", "false", "f")
#: Of several filters of one of these kinds any may fit, of all others every one must.
_ANY = ("driver", "id", "name", "scope", "type", "source")


def chosen(
    words: Sequence[str],
    allowed: Collection[str],
    records: Collection[NetworkRecord],
    used: Collection[str],
    now: float,
) -> list[NetworkRecord]:
    """`words` are KEY=VALUE, `used` the names of networks with members. Raises Problem."""
    filters: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise Problem(f"cannot read filter {word!r}: write KEY=VALUE", 2)
        if key.removesuffix("!") not in allowed or (key.endswith("!") and key != "label!"):
            raise Problem(f"cannot read filter {word!r}: the filters are {', '.join(sorted(allowed))}", 2)
        filters.setdefault(key, []).append(value)
    tests = [_test(key, values, used, now) for key, values in filters.items()]
    return [record for record in records if all(test(record) for test in tests)]


def _test(key: str, values: list[str], used: Collection[str], now: float) -> Callable[[NetworkRecord], bool]:
    single = [_one(key, value, used, now) for value in values]
    if key in _ANY:
        return lambda record: any(test(record) for test in single)
    return lambda record: all(test(record) for test in single)


def _one(key: str, value: str, used: Collection[str], now: float) -> Callable[[NetworkRecord], bool]:
    match key:
        case "dangling":
            wanted = _truth(value)
            return lambda record: (record.name not in used) is wanted
        case "driver":
            return lambda record: record.options.driver == value
        case "id":
            return lambda record: id_of(record).startswith(value)
        case "label" | "label!":
            return lambda record: _labelled(record, value) is (key == "label")
        case "name":
            return lambda record: value in record.name
        case "scope":
            return lambda record: value == "local"
        case "source":
            return lambda record: (record.source or UNMANAGED) == value
        case "type":
            if value not in ("custom", "builtin"):
                raise Problem(f"cannot read filter type={value}: write custom or builtin", 2)
            return lambda record: value == "custom"
        case _:
            until = moment(value, now)
            return lambda record: record.created < until


def _labelled(record: NetworkRecord, text: str) -> bool:
    key, equals, value = text.partition("=")
    labels = json.loads(record.labels)
    return key in labels and (not equals or labels[key] == value)


def _truth(value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise Problem(f"cannot read filter dangling={value}: write true or false", 2)
    return value.lower() in _TRUE
