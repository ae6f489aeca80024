"""Effects: images as files for others: docker-archive, OCI layout, and the directory of skopeo's dir:.

Sources: Docker image spec 1.2 (manifest.json of `docker save`), OCI image-spec 1.1 image-layout.md. As Docker
has it since 25, a docker-archive is an OCI layout as well, so that either reader finds its way; layers are
uncompressed in it, as older readers want them, and shared ones are there once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.faults import Fault, faults
from runtime.images.blobs import CHUNK, BlobStore
from runtime.images.catalog import Catalog
from runtime.images.compose import Composer, described, oci_manifest
from runtime.images.manifests import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    config_platform,
)
from runtime.images.sinks import Sink
from specs.values import ImageRef

FORMATS = ("docker-archive", "oci-archive", "oci-dir", "docker-dir")

_NAME = "io.containerd.image.name"  # the whole name, as containerd and Docker note it
_TAG = "org.opencontainers.image.ref.name"  # what skopeo and umoci call it within the layout
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_TRANSPORT = b"Directory Transport Version: 1.1\n"


@dataclass(frozen=True, slots=True)
class ToSave:
    """An image, and the names that it is saved under."""

    id: str
    names: tuple[ImageRef, ...]


def chosen(catalog: Catalog, texts: Sequence[str]) -> list[ToSave]:
    """What is meant by each text: a name with a tag is that name, a repository without one all its tags, an
    id the image without a name. One image is saved once. Fault image-not-found."""
    found: dict[str, dict[ImageRef, None]] = {}
    for text in texts:
        for id, names in _meant(catalog, text):
            found.setdefault(id, {}).update(dict.fromkeys(names))
    return [ToSave(id, tuple(names)) for id, names in found.items()]


def _meant(catalog: Catalog, text: str) -> list[tuple[str, list[ImageRef]]]:
    image = catalog.get(text)
    try:
        ref = ImageRef.parse(text)
    except ValueError:
        ref = None
    last = text.rpartition("/")[2]
    if ref is not None and ":" not in last and "@" not in last:
        same = [
            (
                item.id,
                [name for name in map(ImageRef.parse, item.names) if name.tag and name.name == ref.name],
            )
            for item in catalog.list()
        ]
        if tagged := [(id, names) for id, names in same if names]:
            return tagged
    if image is None:
        raise Fault("image-not-found", "save image", text, "it is not in the store")
    return [(image.id, [ref] if ref is not None and ref.tag and str(ref) in image.names else [])]


class Saver:
    """Writes archives of images of the store. The caller holds the store meanwhile."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, composer: Composer) -> None:
        self._catalog, self._blobs, self._composer = catalog, blobs, composer

    def save(self, images: Sequence[ToSave], form: str, sink: Sink) -> None:
        """In one of FORMATS. Fault request-invalid for several images where the format has one."""
        if form == "docker-dir" and len(images) != 1:
            cause = f"{len(images)} images do not fit into the format {form}"
            raise Fault("request-invalid", "save", "images", cause, "save one, or in another format")
        subject = ", ".join(str(image.names[0].familiar if image.names else image.id) for image in images)
        with faults("save image", subject):
            if form == "docker-dir":
                self._docker_directory(images[0], sink)
            elif form == "docker-archive":
                self._docker_archive(images, sink)
            else:
                self._layout(images, sink)

    # ------------------------------------------------------------ docker-archive

    def _docker_archive(self, images: Sequence[ToSave], sink: Sink) -> None:
        sink.put("oci-layout", _LAYOUT)
        written: dict[str, Descriptor] = {}
        items, entries = [], []
        for image in images:
            config, chain = self._config(image.id)
            layers = [self._plain_layer(chain_id, written, sink) for chain_id in chain]
            own = Descriptor(OCI_CONFIG, image.id, len(config))
            manifest = oci_manifest(own, layers)
            entry = Descriptor(OCI_MANIFEST, _digest(manifest), len(manifest))
            for descriptor, data in ((own, config), (entry, manifest)):
                if descriptor.digest not in written:
                    written[descriptor.digest] = descriptor
                    sink.put(_path(descriptor), data)
            entries += _entries(image, entry, config, tags=True)
            items.append(_docker_item(image, own, layers))
        sink.put("index.json", _index(entries))
        sink.put("manifest.json", _json(items))

    def _plain_layer(self, chain_id: str, written: dict[str, Descriptor], sink: Sink) -> Descriptor:
        row = self._catalog.layer(chain_id)
        if row is None:
            raise Fault("layer-invalid", "save layer", chain_id, "it is not in the store")
        diff_id = str(row["diff_id"])
        if diff_id not in written:
            layer = Descriptor(OCI_LAYER, diff_id, 0)
            size = sink.stream(_path(layer), self._composer.layer_tar(chain_id))
            written[diff_id] = Descriptor(OCI_LAYER, diff_id, size)
        return written[diff_id]

    # ------------------------------------------------------------ OCI layout

    def _layout(self, images: Sequence[ToSave], sink: Sink) -> None:
        sink.put("oci-layout", _LAYOUT)
        tags = [name.tag for image in images for name in image.names]
        unique = len(set(tags)) == len(tags)  # else the layout could not say which of them is meant
        written: set[str] = set()
        entries = []
        for image in images:
            config, _ = self._config(image.id)
            manifest = self._composer.oci_manifest_of(image.id)
            entry = Descriptor(OCI_MANIFEST, _digest(manifest), len(manifest))
            for layer in json.loads(manifest)["layers"]:
                self._blob(Descriptor(layer["mediaType"], layer["digest"], layer["size"]), written, sink)
            for digest, data in ((image.id, config), (entry.digest, manifest)):
                if digest not in written:
                    written.add(digest)
                    sink.put(_path(Descriptor("", digest, len(data))), data)
            entries += _entries(image, entry, config, tags=unique)
        sink.put("index.json", _index(entries))

    def _blob(self, layer: Descriptor, written: set[str], sink: Sink, name: str = "") -> None:
        """Copied with a look at its digest: what rotted is not passed on."""
        if layer.digest in written:
            return
        written.add(layer.digest)
        digest = hashlib.sha256()
        with self._blobs.open(layer.digest) as file:

            def pieces() -> Any:
                while data := file.read(CHUNK):
                    digest.update(data)
                    yield data

            sink.stream(name or _path(layer), pieces(), layer.size)
        if digest.hexdigest() != layer.hex:
            cause = f"its bytes have sha256:{digest.hexdigest()}"
            raise Fault("digest-mismatch", "save blob", layer.digest, cause, "pull or import the image again")

    # ------------------------------------------------------------ dir:

    def _docker_directory(self, image: ToSave, sink: Sink) -> None:
        """containers-transports(5): manifest.json beside blobs under their hexadecimal digests."""
        config, chain = self._config(image.id)
        layers = [self._composer.layer_blob(chain_id) for chain_id in chain]
        written: set[str] = set()
        for layer in layers:
            self._blob(layer, written, sink, layer.hex)
        own = Descriptor(DOCKER_CONFIG, image.id, len(config))
        sink.put(own.hex, config)
        document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": described(own),
            "layers": [described(replace(item, media_type=DOCKER_LAYER)) for item in layers],
        }
        sink.put("manifest.json", _json(document))
        sink.put("version", _TRANSPORT)

    def _config(self, id: str) -> tuple[bytes, tuple[str, ...]]:
        return self._composer.config_of(id), self._catalog.chain(id)


def _docker_item(image: ToSave, config: Descriptor, layers: Sequence[Descriptor]) -> dict[str, Any]:
    return {
        "Config": _path(config),
        "RepoTags": [name.familiar for name in image.names] or None,
        "Layers": [_path(layer) for layer in layers],
        "LayerSources": {layer.digest: described(layer) for layer in layers},
    }


def _entries(image: ToSave, entry: Descriptor, config: bytes, *, tags: bool) -> list[dict[str, Any]]:
    """An entry of index.json for each name, or one without."""
    document = json.loads(config)
    platform = config_platform(document)
    place = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
    base = {**described(entry), "platform": {key: value for key, value in place.items() if value}}
    if not image.names:
        return [base]
    return [
        {**base, "annotations": {_NAME: str(name), _TAG: name.tag if tags else name.familiar}}
        for name in image.names
    ]


def _index(entries: Sequence[Mapping[str, Any]]) -> bytes:
    media_type = "application/vnd.oci.image.index.v1+json"
    return _json({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)})


def _path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
