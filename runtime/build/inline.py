"""Effects: the cache of a build in its image, so that another machine has it with the image.

A config with it has an entry for each step: the layer that it made, its key (runtime.build.keys), its title
and when it was done. Such an image is named by `--cache-from`; its steps are offered to that build, and kept
where it uses them. Who names an image says that its steps are what their keys tell: nothing can check it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.build.bases import BaseImage, Bases
from runtime.build.cache import Cache, Step
from runtime.build.config import CACHE
from runtime.build.progress import Teller
from runtime.database import Database
from runtime.faults import Fault

#: Steps of one image that are looked at.
MAX_STEPS = 20_000

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
#: A step, and all layers up to its own, bottom first.
Offer = tuple[Step, tuple[str, ...]]


def told(chain: Sequence[str], steps: Sequence[Step]) -> list[dict[str, Any]]:
    """What the config of an image with these layers has of the steps that made them."""
    place = {chain_id: number for number, chain_id in enumerate(chain)}
    found = {step.key: step for step in steps if step.chain_id in place}
    entries = [
        {"layer": place[step.chain_id], "key": step.key, "text": step.text, "created": step.created}
        for step in found.values()
    ]
    return sorted(entries, key=lambda entry: (entry["layer"], entry["key"]))


def offers(image: BaseImage, sizes: Mapping[str, int], now: float) -> dict[str, Offer]:
    """What an image has, by key; entries that say nothing are passed over."""
    found: dict[str, Offer] = {}
    entries = image.config.get(CACHE)
    diff_ids = image.diff_ids
    for entry in entries[:MAX_STEPS] if isinstance(entries, list) else ():
        match entry:
            case {"layer": int(layer), "key": str(key), "text": str(text), "created": str(created)}:
                pass
            case _:
                continue
        right = 0 <= layer < min(len(image.chain), len(diff_ids))
        if not right or not _DIGEST.fullmatch(key) or not _TIME.fullmatch(created):
            continue
        chain_id, parent = image.chain[layer], image.chain[layer - 1] if layer else ""
        size = sizes.get(chain_id, 0)
        step = Step(key, chain_id, parent, diff_ids[layer], size, created, now, text[:500])
        found[key] = step, image.chain[: layer + 1]
    return found


class Offered(Cache):
    """The cache, and what images offer beside it; a step of theirs is kept when it is used."""

    def __init__(self, database: Database, found: Mapping[str, Offer]) -> None:
        super().__init__(database)
        self._found = found

    def find(self, key: str) -> Step | None:
        known = super().find(key)
        if known is None and key in self._found:
            known, chain = self._found[key]
            self.add(known, chain)
        return known


def offered(names: Sequence[str], platform: str, bases: Bases, teller: Teller, database: Database) -> Offered:
    """The images are brought where they are not here; one that cannot be had is told, and offers nothing."""
    query = "SELECT size FROM layers WHERE chain_id = ?"
    found: dict[str, Offer] = {}
    for name in names:
        vertex = teller.begin(f"[internal] import cache of {name}")
        try:
            image = bases.image(name, platform)
        except Fault as fault:
            vertex.note(f"cannot be used: {fault.cause}")
            vertex.done()
            continue
        rows = {chain: database.read().execute(query, (chain,)).fetchone() for chain in image.chain}
        sizes = {chain: int(row[0]) for chain, row in rows.items() if row is not None}
        steps = offers(image, sizes, time.time())
        if not steps:
            vertex.note(
                "it has none (see --cache-to type=inline); steps that were done here are known anyway"
            )
        vertex.done()
        found |= steps
    return Offered(database, found)


def written(extra: Mapping[str, Any], chain: Sequence[str], steps: Sequence[Step]) -> dict[str, Any]:
    """The further keys of a config, with the steps."""
    return {**extra, CACHE: told(chain, steps)}
