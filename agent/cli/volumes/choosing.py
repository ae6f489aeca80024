"""Decisions: which volumes a `--filter` means.

As docker: dangling (no container mounts it), driver, label (all of them must be there; `label!=` none), name
(a part of it), and of `prune` all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.cli.main import Problem
from runtime.volumes.records import Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_TRUE, _FALSE = frozenset({"1", "true", "t"}), frozenset({"0", "false", "f"})
Label = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Filter:
    """What is empty or None does not count. Of several names or drivers one must fit."""

    dangling: bool | None = None
    drivers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    unlabelled: tuple[Label, ...] = ()
    everything: bool = False  # of prune: named ones, too

    def accepts(self, volume: Volume, users: Collection[str]) -> bool:
        if self.dangling is not None and self.dangling == bool(users):
            return False
        if self.drivers and "local" not in self.drivers:
            return False
        if self.names and not any(part in volume.name for part in self.names):
            return False
        return all(_has(volume.labels, *item) for item in self.labels) and not any(
            _has(volume.labels, *item) for item in self.unlabelled
        )


def _has(labels: Mapping[str, str], key: str, value: str | None) -> bool:
    return key in labels and (value is None or labels[key] == value)


def read(words: Sequence[str], known: Collection[str]) -> Filter:
    """`words` are KEY=VALUE, with one of the keys `known`. Raises Problem."""
    found = Filter()
    for word in words:
        key, equals, value = word.partition("=")
        negated, key = key.endswith("!"), key.removesuffix("!")
        if not equals:
            raise Problem(f"cannot read filter {word!r}: write KEY=VALUE", 2)
        if key not in known or (negated and key != "label"):
            raise Problem(f"cannot read filter {word!r}: the filters are {', '.join(sorted(known))}", 2)
        name, given, text = value.partition("=")
        label = (name, text if given else None)
        match key:
            case "dangling":
                found = replace(found, dangling=_truth(key, value))
            case "all":
                found = replace(found, everything=_truth(key, value))
            case "driver":
                found = replace(found, drivers=(*found.drivers, value))
            case "name":
                found = replace(found, names=(*found.names, value))
            case _ if negated:
                found = replace(found, unlabelled=(*found.unlabelled, label))
            case _:
                found = replace(found, labels=(*found.labels, label))
    return found


def _truth(key: str, value: str) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        raise Problem(f"cannot read filter {key}={value}: write true or false", 2)
    return value.lower() in _TRUE
