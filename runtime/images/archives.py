"""Effects: images that come as files: a root filesystem (directory or tar), an OCI layout (directory or tar),
a docker-archive (what `docker save` writes).

Sources: OCI image-spec 1.1 "Image Layout"; Docker image spec 1.2 "Combined Image JSON + Filesystem Changeset
Format". What an archive is, its content says. A root filesystem becomes an image whose config depends on
nothing but it and what is said of it, so that importing it again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from runtime.faults import Fault
from runtime.images.blobs import CHUNK, BlobStore
from runtime.images.changes import Unwritable, write_tree
from runtime.images.compression import CompressionError, compressor, detect
from runtime.images.manifests import (
    MAX_CONFIG,
    MAX_MANIFEST,
    OCI_LAYER,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    check_platform,
    match_layers,
    parse_config,
    parse_manifest,
    select,
)
from runtime.images.members import (
    Folder,
    Transport,
    Tree,
    copy,
    expanded,
    first_member,
    invalid,
    member,
    pieces,
    read,
    tar_file,
)
from runtime.images.tarstream import TarError
from specs.values import ImageRef

EPOCH = "1970-01-01T00:00:00Z"
MAX_NESTED = 3  # indexes that point at indexes
MAX_IMAGES = 1000  # of one archive

_DIR_TRANSPORT = b"Directory Transport Version"
_ARCHIVE_NAMES = re.compile(
    rb"(?:blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}(?:\.json|\.tar)?)\Z"
)


@dataclass(frozen=True, slots=True)
class Found:
    """One image of an archive, and what it is called there. `fetch` brings a layer's blob into the store."""

    id: str
    config: ImageConfig
    text: bytes
    manifest: str  # digest, empty when the archive has none
    layers: tuple[Descriptor, ...]
    fetch: Callable[[Descriptor], object]
    names: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Described:
    """What a root filesystem does not say of itself: the `config` of its image's config, and why it is."""

    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    comment: str = "imported root filesystem"


@dataclass(frozen=True, slots=True)
class _Archive:
    """An archive that was opened: `tree` is None for a root filesystem, of which `rootfs` makes an image."""

    tree: Tree | None
    subject: str
    blobs: BlobStore
    platform: Platform
    rootfs: Callable[[], Found]
    other: bool = False  # an image that names another platform is taken, too


@contextmanager
def open_archive(
    path: Path,
    blobs: BlobStore,
    name: ImageRef | None,
    platform: Platform,
    described: Described | None = None,
) -> Iterator[Found]:
    """Look into `path` for the image that `name` says, or the only one. Valid inside the context.

    Only a root filesystem may be `described`. Faults archive-invalid, manifest-invalid, platform-missing,
    digest-mismatch.
    """
    with _opened(path, blobs, platform, described or Described()) as archive:
        if archive.tree is None:
            yield archive.rootfs()
            return
        if described is not None:
            cause = "it is an image, which says itself what it runs"
            raise invalid(archive.subject, cause, "load it, and build FROM it")
        if _is_layout(archive.tree):
            yield _layout_image(archive, _choose(_layout_index(archive), name, archive))
        else:
            yield _docker_image(archive, _choose_docker(_docker_images(archive), name, archive))


@contextmanager
def open_images(
    path: Path, blobs: BlobStore, platform: Platform, *, other: bool = True
) -> Iterator[Iterator[Found]]:
    """Every image of an OCI layout or docker-archive, one after the other: for `platform` where there is a
    choice, and where there is none only if that may be `other`. Valid inside the context."""
    with _opened(path, blobs, platform, Described()) as opened:
        archive = replace(opened, other=other)
        if archive.tree is None:
            cause = "it is no image archive, but a root filesystem or something else"
            raise invalid(archive.subject, cause, "make an image of it by `stead image import`")
        if _is_layout(archive.tree):
            yield _layout_images(archive)
        else:
            yield (_docker_image(archive, image) for image in _docker_images(archive))


@contextmanager
def _opened(path: Path, blobs: BlobStore, platform: Platform, described: Described) -> Iterator[_Archive]:
    subject = "standard input" if str(path) == "/dev/stdin" else str(path)
    with ExitStack() as stack:
        try:
            if path.is_dir():
                yield _directory(path, subject, blobs, platform, described)
            elif path.exists():
                yield _file(path, subject, blobs, platform, described, stack)
            else:
                raise invalid(subject, "it does not exist")
        except (TarError, CompressionError, Unwritable) as error:
            raise invalid(subject, str(error)) from error


def _directory(
    path: Path, subject: str, blobs: BlobStore, platform: Platform, described: Described
) -> _Archive:
    def rootfs() -> Found:
        digest, engine = hashlib.sha256(), compressor("zstd")
        with blobs.incoming() as incoming:
            for piece in write_tree(path):
                digest.update(piece)
                incoming.write(engine.compress(piece))
            incoming.write(engine.flush())
            layer = Descriptor(OCI_LAYER, incoming.keep(), incoming.size)
        return _rootfs(blobs, layer, f"sha256:{digest.hexdigest()}", platform, described)

    tree: Tree = (folder := Folder(path))
    if not _is_layout(tree) and not _is_docker(tree, subject):
        if not tree.has("manifest.json") or not _is_dir_transport(tree):
            return _Archive(None, subject, blobs, platform, rootfs)
        tree = Transport(folder, read(folder, "manifest.json", MAX_MANIFEST, subject))
    return _Archive(tree, subject, blobs, platform, rootfs)


def _is_dir_transport(tree: Tree) -> bool:
    if not tree.has("version"):
        return False
    with tree.open("version")[0] as file:
        return file.read(len(_DIR_TRANSPORT)) == _DIR_TRANSPORT


def _file(
    path: Path, subject: str, blobs: BlobStore, platform: Platform, described: Described, stack: ExitStack
) -> _Archive:
    file: BinaryIO = stack.enter_context(open(path, "rb"))  # noqa: SIM115
    incoming = stack.enter_context(blobs.incoming())
    if not file.seekable():  # a pipe: it comes but once
        while data := file.read(CHUNK):
            incoming.write(data)
        file = stack.enter_context(incoming.reader())

    def rootfs() -> Found:
        file.seek(0)
        if not incoming.size:
            while data := file.read(CHUNK):
                incoming.write(data)
        blob = incoming.keep()
        return _rootfs(
            blobs, Descriptor(OCI_LAYER, blob, incoming.size), _diff_id(blobs, blob), platform, described
        )

    if _ARCHIVE_NAMES.match(first_member(file, subject).partition(b"/")[0]):
        tree = tar_file(file, blobs.directory.parent, stack)
        if _is_layout(tree) or _is_docker(tree, subject):
            return _Archive(tree, subject, blobs, platform, rootfs)
    return _Archive(None, subject, blobs, platform, rootfs)


# ---------------------------------------------------------------- root filesystems


def _diff_id(blobs: BlobStore, blob: str) -> str:
    with blobs.open(blob) as stored:
        if not detect(stored.read(16)):
            return blob
        stored.seek(0)
        digest = hashlib.sha256()
        for piece in expanded(stored):
            digest.update(piece)
        return f"sha256:{digest.hexdigest()}"


def _rootfs(
    blobs: BlobStore, layer: Descriptor, diff_id: str, platform: Platform, described: Described
) -> Found:
    """An image of one layer. Its config names no time, host or tool: its id is the content's."""
    document = {
        "architecture": platform.architecture,
        "config": dict(described.config),
        "created": EPOCH,
        "history": [{"created": EPOCH, "comment": described.comment}],
        "os": platform.os,
        "rootfs": {"diff_ids": [diff_id], "type": "layers"},
    }
    if platform.variant and platform != Platform.of(platform.os, platform.architecture):
        document["variant"] = platform.variant
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return Found(blobs.put(text), parse_config(text, layer.digest), text, "", (layer,), lambda _: None)


# ---------------------------------------------------------------- OCI layouts


def _is_layout(tree: Tree) -> bool:
    return tree.has("oci-layout") and tree.has("index.json")


def _layout_index(archive: _Archive) -> Index:
    assert archive.tree is not None
    data = read(archive.tree, "index.json", MAX_MANIFEST, archive.subject)
    index = parse_manifest(data, archive.subject)
    if not isinstance(index, Index):
        raise invalid(archive.subject, "its index.json is not an index")
    return index


def _choose(index: Index, name: ImageRef | None, archive: _Archive) -> Descriptor:
    if len(index.entries) == 1:
        return index.entries[0]
    wanted = {str(name), name.familiar, name.tag, f"{name.repository}:{name.tag}"} if name else set()
    named = tuple(entry for entry in index.entries if entry.name in wanted)
    names = sorted({entry.name for entry in index.entries if entry.name})
    if not named and len(names) > 1:
        raise _ambiguous(archive, names)
    return select(Index(named or index.entries), archive.platform, archive.subject)


def _ambiguous(archive: _Archive, names: Sequence[str]) -> Fault:
    cause = f"it has several images: {', '.join(names)}"
    return invalid(archive.subject, cause, "import it under the name of one of them, or load all")


def _layout_images(archive: _Archive) -> Iterator[Found]:
    """Each image once, with all its names. Of a name that means several platforms, this one's."""
    entries = [item for item in _layout_index(archive).entries if not _is_attestation(item)]
    by_name: dict[str, list[Descriptor]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    chosen: dict[str, tuple[Descriptor, list[str]]] = {}
    for name, same in by_name.items():
        for entry in _for_platform(same, name, archive):
            chosen.setdefault(entry.digest, (entry, []))[1].append(name)
    if len(chosen) > MAX_IMAGES:
        raise invalid(archive.subject, f"it has more than {MAX_IMAGES} images")
    for entry, names in chosen.values():
        yield _layout_image(archive, entry, tuple(_names(names)))


def _for_platform(same: list[Descriptor], name: str, archive: _Archive) -> list[Descriptor]:
    """Of entries with one name the best, of those without a name each that suits; a sole one, whatever it
    is."""
    if len(same) == 1:
        return same
    if not name:
        fit = [item for item in same if not item.platform or item.platform.fitness(archive.platform)]
        return fit or same
    return [select(Index(tuple(same)), archive.platform, archive.subject)]


def _is_attestation(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.os == "unknown"


def _names(texts: Sequence[str]) -> Iterator[ImageRef]:
    """What is a name to others, too: a word alone is a tag within this layout."""
    for text in texts:
        if ":" in text or "/" in text:
            try:
                ref = ImageRef.parse(text)
            except ValueError:
                continue
            if ref.tag:
                yield ref


def _layout_image(archive: _Archive, entry: Descriptor, names: tuple[ImageRef, ...] = ()) -> Found:
    tree, subject, blobs = archive.tree, archive.subject, archive.blobs
    assert tree is not None
    for _ in range(MAX_NESTED):
        data = _blob(tree, entry, MAX_MANIFEST, subject)
        parsed = parse_manifest(data, subject, entry.media_type)
        if isinstance(parsed, Manifest):
            break
        entry = select(parsed, archive.platform, subject)
    else:
        raise invalid(subject, "its indexes point at indexes without an end")
    text = _blob(tree, parsed.config, MAX_CONFIG, subject)
    config = parse_config(text, subject)
    match_layers(parsed, config, subject)
    if not archive.other:
        check_platform(config, archive.platform, subject)
    blobs.put(text)

    def fetch(descriptor: Descriptor) -> object:
        return blobs.fetch(descriptor, lambda writer: copy(tree, _blob_name(descriptor), writer, subject))

    return Found(parsed.config.digest, config, text, blobs.put(data), parsed.layers, fetch, names)


def _blob_name(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def _blob(tree: Tree, descriptor: Descriptor, limit: int, subject: str) -> bytes:
    data = read(tree, _blob_name(descriptor), limit, subject)
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != descriptor.digest:
        cause = f"blob {descriptor.digest} has the bytes of {found}"
        raise Fault("digest-mismatch", "import image", subject, cause)
    return data


# ---------------------------------------------------------------- docker-archive

_Item = Mapping[str, Any]


def _is_docker(tree: Tree, subject: str) -> bool:
    if not tree.has("manifest.json"):
        return False
    try:
        value = json.loads(read(tree, "manifest.json", MAX_MANIFEST, subject))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("Config"), str)
        and isinstance(item.get("Layers"), list)
        and isinstance(item.get("RepoTags"), list | None)
        for item in value
    )


def _docker_images(archive: _Archive) -> list[_Item]:
    assert archive.tree is not None
    images: list[_Item] = json.loads(read(archive.tree, "manifest.json", MAX_MANIFEST, archive.subject))
    if not images or len(images) > MAX_IMAGES:
        raise invalid(archive.subject, f"it has {len(images)} images; 1 to {MAX_IMAGES} can be read")
    return images


def _tags(item: _Item) -> list[str]:
    return [str(tag) for tag in item.get("RepoTags") or ()]


def _choose_docker(images: list[_Item], name: ImageRef | None, archive: _Archive) -> _Item:
    wanted = {str(name), name.familiar, f"{name.repository}:{name.tag}"} if name else set()
    named = [item for item in images if wanted & set(_tags(item))]
    if len(images) != 1 and len(named) != 1:
        raise _ambiguous(archive, sorted(tag for item in images for tag in _tags(item)))
    return named[0] if len(named) == 1 else images[0]


def _docker_image(archive: _Archive, image: _Item) -> Found:
    tree, subject, blobs = archive.tree, archive.subject, archive.blobs
    assert tree is not None
    text = read(tree, image["Config"], MAX_CONFIG, subject)
    config = parse_config(text, subject)
    if not archive.other:
        check_platform(config, archive.platform, subject)
    if len(image["Layers"]) != len(config.diff_ids):
        cause = f"it has {len(image['Layers'])} layers, its config names {len(config.diff_ids)}"
        raise invalid(subject, cause)
    members: dict[str, str] = {}
    layers = []
    for name, diff_id in zip(image["Layers"], config.diff_ids, strict=True):
        layer = _docker_layer(tree, str(name), diff_id, subject, blobs)
        members[layer.digest] = str(name)
        layers.append(layer)

    def fetch(descriptor: Descriptor) -> object:
        return blobs.fetch(descriptor, lambda writer: copy(tree, members[descriptor.digest], writer, subject))

    names = tuple(_docker_name(tag, subject) for tag in _tags(image))
    return Found(blobs.put(text), config, text, "", tuple(layers), fetch, names)


def _docker_name(tag: str, subject: str) -> ImageRef:
    try:
        ref = ImageRef.parse(tag)
    except ValueError as error:
        raise invalid(subject, str(error)) from error
    if not ref.tag:
        raise invalid(subject, f"{tag!r} is no name with a tag")
    return ref


def _docker_layer(tree: Tree, name: str, diff_id: str, subject: str, blobs: BlobStore) -> Descriptor:
    """A layer is kept as it is there: mostly as plain tar, so that its blob's digest is the diff id."""
    file, size = member(tree, name, subject)
    with file:
        if not detect(file.read(min(16, size))):
            return Descriptor(OCI_LAYER, diff_id, size)
    with blobs.incoming() as incoming:
        for data in pieces(tree, name, subject):
            incoming.write(data)
        return Descriptor(OCI_LAYER, incoming.keep(), incoming.size)
