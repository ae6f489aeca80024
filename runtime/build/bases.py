"""Effects: the images that stages begin from and copy from, brought when they are not here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runtime.build import locks
from runtime.build.progress import Teller
from runtime.faults import Fault
from runtime.images.catalog import Catalog
from runtime.images.layers import LayerStore
from runtime.images.manifests import Platform, config_platform, host_platform
from runtime.interface import Progress
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.images.store import ImageStore


#: Digits from which on a name may be the beginning of an id: `FROM cafe` is an image of that name.
MIN_ID = 12


@dataclass(frozen=True, slots=True)
class BaseImage:
    """`config` is the whole config document, `text` its bytes; `chain` bottom first."""

    id: str
    config: Mapping[str, Any]
    text: bytes
    chain: tuple[str, ...]

    @property
    def diff_ids(self) -> list[str]:
        return [str(item) for item in (self.config.get("rootfs") or {}).get("diff_ids") or ()]


class Bases:
    """Of one build. Thread-safe; each image is brought once."""

    def __init__(
        self,
        catalog: Catalog,
        layers: LayerStore,
        store: Callable[[], ImageStore],
        teller: Teller,
        subject: str,
        pull: bool,
        lock: locks.Lock | None = None,
    ) -> None:
        """`store` is asked for when an image is not here. What `lock` has is taken at its digest, and no
        registry is asked for anything newer."""
        self._catalog, self._layers, self._store, self._teller = catalog, layers, store, teller
        self._subject, self._pull, self._lock = subject, pull, lock
        self._found: dict[tuple[str, str], BaseImage] = {}
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._guard = threading.Lock()

    def image(self, name: str, platform: str) -> BaseImage:
        """The image called `name` for `platform`. Faults of pulling, request-invalid."""
        key = (locks.at(name, self._lock), platform)
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._found:
                self._found[key] = self._bring(key[0], platform, not locks.digest_of(name, self._lock))
            return self._found[key]

    def told(self) -> dict[str, str] | None:
        """The ids of the images by their canonical names; None where one was meant by its id."""
        found = {}
        for (name, _), image in self._found.items():
            try:
                found[str(ImageRef.parse(name))] = image.id
            except ValueError:
                return None
        return found

    def known(self, name: str, platform: str) -> str:
        """The digest that it is locked to; else its id, where it is here, or nothing. Brings nothing."""
        if locked := locks.digest_of(name, self._lock):
            return locked
        found = self._here(name, Platform.parse(platform))
        return found.id if found is not None else ""

    def _bring(self, name: str, platform: str, free: bool) -> BaseImage:
        wanted = Platform.parse(platform)
        here = None if self._pull and free else self._here(name, wanted)
        if here is not None:
            return here
        try:
            ref = ImageRef.parse(name)
        except ValueError as error:
            raise Fault("request-invalid", "build", self._subject, str(error)) from error
        vertex = self._teller.begin(f"[internal] pull {ref.familiar}")

        def progress(item: Progress) -> None:
            if item.total and item.done >= item.total:
                vertex.note(f"{item.what} {item.done} of {item.total} bytes")

        try:
            id = self._store().pull(ref, platform=platform, progress=progress)
        except Fault as fault:
            vertex.failed(fault.cause)
            raise
        vertex.done()
        found = self._read(id)
        if found is None:
            raise Fault("image-not-found", "build", self._subject, f"image {name} went meanwhile")
        return found

    def _here(self, name: str, wanted: Platform) -> BaseImage | None:
        id = self._catalog.find(name)
        if not id or (id.startswith(f"sha256:{name}") and len(name) < MIN_ID):
            return None
        found = self._read(id)
        if found is None or _platform(found.config).fitness(wanted) == 0:
            return None
        if any(not self._layers.has(chain_id) for chain_id in found.chain):
            self._store().ensure_layers(id)
        return found

    def _read(self, id: str) -> BaseImage | None:
        query = "SELECT config FROM images WHERE id = ?"
        row = self._catalog.database.read().execute(query, (id,)).fetchone()
        image = self._catalog.get(id)
        if row is None or image is None:
            return None
        return BaseImage(id, image.config, str(row[0]).encode(), image.chain_ids)


def _platform(config: Mapping[str, Any]) -> Platform:
    return config_platform(config)


def platforms_of(asked: Sequence[str]) -> list[str]:
    """The platforms to build for: what was asked, else this machine's. Fault request-invalid."""
    found = []
    for text in asked or (str(host_platform()),):
        try:
            found.append(str(Platform.parse(text)))
        except ValueError as error:
            raise Fault("request-invalid", "build for", text, str(error)) from error
    return list(dict.fromkeys(found))
