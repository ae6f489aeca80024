"""Effects: images that come as files: a root filesystem (directory or tar), an OCI layout (directory or tar),
a docker-archive (what `docker save` writes).

Sources: OCI image-spec 1.1 "Image Layout"; Docker image spec 1.2 "Combined Image JSON + Filesystem Changeset
Format". What an archive is, its content says. A root filesystem becomes an image whose config depends on
nothing but it, so that importing it again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from runtime.faults import Fault
from runtime.images.blobs import CHUNK, BlobStore, Writer
from runtime.images.changes import Unwritable, write_tree
from runtime.images.compression import CompressionError, ZstdCompressor, decompressed, detect
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
from runtime.images.tarstream import FILE, LINK, SYMLINK, Reader, Source, TarError
from runtime.images.unpack import Refused, clean
from specs.values import ImageRef

SNIFF = 1024 * 1024  # bytes in which the first entry of an archive is looked for
ZSTD_LEVEL = 1
EPOCH = "1970-01-01T00:00:00Z"
MAX_NESTED = 3  # indexes that point at indexes
MAX_LINKS = 8  # links that lead to one member

_DIR_TRANSPORT = b"Directory Transport Version"
_ARCHIVE_NAMES = re.compile(
    rb"(?:blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}(?:\.json|\.tar)?)\Z"
)


@dataclass(frozen=True, slots=True)
class Found:
    """One image of an archive. `fetch` brings a layer's blob into the store."""

    id: str
    config: ImageConfig
    text: bytes
    manifest: str  # digest, empty when the archive has none
    layers: tuple[Descriptor, ...]
    fetch: Callable[[Descriptor], object]


class Tree(Protocol):
    """The files of an OCI layout or docker-archive, by relative name."""

    def has(self, name: str) -> bool: ...
    def open(self, name: str) -> tuple[BinaryIO, int]:
        """A file that stands at the member's first byte, and the member's size."""
        ...


def invalid(path: Path, cause: str, hint: str = "") -> Fault:
    return Fault("archive-invalid", "import image", str(path), cause, hint)


@contextmanager
def open_archive(path: Path, blobs: BlobStore, name: ImageRef, platform: Platform) -> Iterator[Found]:
    """Look into `path` for the image that `name` says, or the only one. Valid inside the context.

    Faults archive-invalid, manifest-invalid, platform-missing, digest-mismatch.
    """
    with ExitStack() as stack:
        try:
            if path.is_dir():
                yield _open_directory(path, blobs, name, platform)
            elif path.exists():
                yield _open_file(path, blobs, name, platform, stack)
            else:
                raise invalid(path, "it does not exist")
        except (TarError, CompressionError, Unwritable) as error:
            raise invalid(path, str(error)) from error


def _open_directory(path: Path, blobs: BlobStore, name: ImageRef, platform: Platform) -> Found:
    tree = _Directory(path)
    if tree.has("oci-layout") and tree.has("index.json"):
        return _layout(tree, path, blobs, name, platform)
    if tree.has("manifest.json") and _is_docker(_read(tree, "manifest.json", MAX_MANIFEST, path)):
        return _docker(tree, path, blobs, name, platform)
    if tree.has("manifest.json") and _is_dir_transport(tree):
        cause = "it is an image in the private format of skopeo's dir: and podman's docker-dir"
        raise invalid(path, cause, "save it as an OCI layout or docker-archive")
    with blobs.incoming() as incoming:
        digest, engine = hashlib.sha256(), ZstdCompressor(level=ZSTD_LEVEL)
        for piece in write_tree(path):
            digest.update(piece)
            incoming.write(engine.compress(piece))
        incoming.write(engine.flush())
        return _rootfs(blobs, incoming.keep(), incoming.size, f"sha256:{digest.hexdigest()}", platform)


def _is_dir_transport(tree: Tree) -> bool:
    if not tree.has("version"):
        return False
    with tree.open("version")[0] as file:
        return file.read(len(_DIR_TRANSPORT)) == _DIR_TRANSPORT


def _open_file(path: Path, blobs: BlobStore, name: ImageRef, platform: Platform, stack: ExitStack) -> Found:
    file: BinaryIO = stack.enter_context(open(path, "rb"))  # noqa: SIM115
    head = b""
    for piece in decompressed(file):
        head += piece
        if len(head) >= SNIFF:
            break
    if _is_image_archive(head, path):
        file.seek(0)
        compressed = bool(detect(file.read(16)))
        file.seek(0)
        plain = stack.enter_context(_decompressed_copy(file, blobs.directory)) if compressed else file
        tree = _Tar(plain)
        if tree.has("oci-layout") and tree.has("index.json"):
            return _layout(tree, path, blobs, name, platform)
        if tree.has("manifest.json") and _is_docker(_read(tree, "manifest.json", MAX_MANIFEST, path)):
            return _docker(tree, path, blobs, name, platform)
    file.seek(0)
    with blobs.incoming() as incoming:
        while data := file.read(CHUNK):
            incoming.write(data)
        blob = incoming.keep()
        size = incoming.size
    diff_id = blob
    with blobs.open(blob) as stored:
        if detect(stored.read(16)):
            stored.seek(0)
            digest = hashlib.sha256()
            for piece in decompressed(stored):
                digest.update(piece)
            diff_id = f"sha256:{digest.hexdigest()}"
    return _rootfs(blobs, blob, size, diff_id, platform)


def _is_image_archive(head: bytes, path: Path) -> bool:
    """Whether the first entry is called as an image archive's are. Fault when there is no tar at all."""
    with tempfile.TemporaryFile() as file:
        file.write(head)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        try:
            for entry in Reader(Source(file.fileno())):
                first = clean(entry.name).partition(b"/")[0]
                if first:
                    return _ARCHIVE_NAMES.match(first) is not None
        except (TarError, Refused) as error:
            raise invalid(path, f"it is not a tar archive: {error}") from error
    raise invalid(path, "it is empty")


def _decompressed_copy(file: BinaryIO, directory: Path) -> BinaryIO:
    copy: BinaryIO = tempfile.TemporaryFile(dir=directory.parent)  # noqa: SIM115 - the caller closes it
    try:
        for piece in decompressed(file):
            copy.write(piece)
        copy.flush()
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


# ---------------------------------------------------------------- root filesystems


def _rootfs(blobs: BlobStore, blob: str, size: int, diff_id: str, platform: Platform) -> Found:
    """An image of one layer. Its config names no time, host or tool: its id is the content's."""
    document = {
        "architecture": platform.architecture,
        "config": {},
        "created": EPOCH,
        "history": [{"created": EPOCH, "comment": "imported root filesystem"}],
        "os": platform.os,
        "rootfs": {"diff_ids": [diff_id], "type": "layers"},
    }
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    layer = Descriptor(OCI_LAYER, blob, size)
    return Found(blobs.put(text), parse_config(text, blob), text, "", (layer,), lambda _: None)


# ---------------------------------------------------------------- OCI layouts


def _layout(tree: Tree, path: Path, blobs: BlobStore, name: ImageRef, platform: Platform) -> Found:
    index = parse_manifest(_read(tree, "index.json", MAX_MANIFEST, path), str(path))
    if not isinstance(index, Index):
        raise invalid(path, "its index.json is not an index")
    entry = _choose(index, name, platform, path)
    for _ in range(MAX_NESTED):
        data = _blob(tree, entry, MAX_MANIFEST, path)
        parsed = parse_manifest(data, str(path), entry.media_type)
        if isinstance(parsed, Manifest):
            break
        entry = select(parsed, platform, str(path))
    else:
        raise invalid(path, "its indexes point at indexes without an end")
    text = _blob(tree, parsed.config, MAX_CONFIG, path)
    config = parse_config(text, str(path))
    match_layers(parsed, config, str(path))
    check_platform(config, platform, str(path))
    blobs.put(text)

    def fetch(descriptor: Descriptor) -> object:
        return blobs.fetch(descriptor, lambda writer: _copy(tree, _blob_name(descriptor), writer, path))

    return Found(parsed.config.digest, config, text, blobs.put(data), parsed.layers, fetch)


def _choose(index: Index, name: ImageRef, platform: Platform, path: Path) -> Descriptor:
    if len(index.entries) == 1:
        return index.entries[0]
    wanted = {str(name), name.familiar, name.tag, f"{name.repository}:{name.tag}"}
    named = tuple(entry for entry in index.entries if entry.name in wanted)
    names = sorted({entry.name for entry in index.entries if entry.name})
    if not named and len(names) > 1:
        raise _ambiguous(path, names)
    return select(Index(named or index.entries), platform, str(path))


def _ambiguous(path: Path, names: list[str]) -> Fault:
    return invalid(
        path, f"it has several images: {', '.join(names)}", "import it under the name of one of them"
    )


def _blob_name(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def _blob(tree: Tree, descriptor: Descriptor, limit: int, path: Path) -> bytes:
    data = _read(tree, _blob_name(descriptor), limit, path)
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != descriptor.digest:
        raise Fault(
            "digest-mismatch", "import image", str(path), f"blob {descriptor.digest} has the bytes of {found}"
        )
    return data


# ---------------------------------------------------------------- docker-archive


def _is_docker(data: bytes) -> bool:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and isinstance(item.get("Config"), str)
        and isinstance(item.get("Layers"), list)
        for item in value
    )


def _docker(tree: Tree, path: Path, blobs: BlobStore, name: ImageRef, platform: Platform) -> Found:
    images = json.loads(_read(tree, "manifest.json", MAX_MANIFEST, path))
    wanted = {str(name), name.familiar, f"{name.repository}:{name.tag}"}
    named = [item for item in images if wanted & set(map(str, item.get("RepoTags") or ()))]
    if len(images) != 1 and len(named) != 1:
        raise _ambiguous(path, sorted(str(tag) for item in images for tag in item.get("RepoTags") or ()))
    image = named[0] if len(named) == 1 else images[0]
    text = _read(tree, image["Config"], MAX_CONFIG, path)
    config = parse_config(text, str(path))
    check_platform(config, platform, str(path))
    if len(image["Layers"]) != len(config.diff_ids):
        raise invalid(path, f"it has {len(image['Layers'])} layers, its config names {len(config.diff_ids)}")
    members: dict[str, str] = {}
    layers = []
    for member, diff_id in zip(image["Layers"], config.diff_ids, strict=True):
        layer = _docker_layer(tree, str(member), diff_id, path, blobs)
        members[layer.digest] = str(member)
        layers.append(layer)

    def fetch(descriptor: Descriptor) -> object:
        return blobs.fetch(descriptor, lambda writer: _copy(tree, members[descriptor.digest], writer, path))

    return Found(blobs.put(text), config, text, "", tuple(layers), fetch)


def _docker_layer(tree: Tree, member: str, diff_id: str, path: Path, blobs: BlobStore) -> Descriptor:
    """A layer is kept as it is there: mostly as plain tar, so that its blob's digest is the diff id."""
    file, size = _member(tree, member, path)
    with file:
        start = file.tell()
        if not detect(file.read(16)):
            return Descriptor(OCI_LAYER, diff_id, size)
        file.seek(start)
        with blobs.incoming() as incoming:
            left = size
            while left and (data := file.read(min(CHUNK, left))):
                incoming.write(data)
                left -= len(data)
            return Descriptor(OCI_LAYER, incoming.keep(), incoming.size)


# ---------------------------------------------------------------- files of an archive


def _member(tree: Tree, name: str, path: Path) -> tuple[BinaryIO, int]:
    try:
        return tree.open(name)
    except FileNotFoundError:
        raise invalid(path, f"it has no {name}") from None


def _read(tree: Tree, name: str, limit: int, path: Path) -> bytes:
    file, size = _member(tree, name, path)
    with file:
        if size > limit:
            raise invalid(path, f"its {name} has more than {limit} bytes")
        return file.read(size)


def _copy(tree: Tree, name: str, writer: Writer, path: Path) -> None:
    file, size = _member(tree, name, path)
    with file:
        file.seek(writer.done, os.SEEK_CUR)
        left = size - writer.done
        while left > 0 and (data := file.read(min(CHUNK, left))):
            writer.write(data)
            left -= len(data)


class _Directory:
    """Files below a directory; a name that leads out of it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def _path(self, name: str) -> Path:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise FileNotFoundError(name)
        return path

    def has(self, name: str) -> bool:
        try:
            return self._path(name).is_file()
        except (FileNotFoundError, ValueError):
            return False

    def open(self, name: str) -> tuple[BinaryIO, int]:
        file = open(self._path(name), "rb")  # noqa: SIM115 - the caller closes it
        return file, os.fstat(file.fileno()).st_size


class _Tar:
    """Members of an uncompressed tar file; `docker save` links members that are the same."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        for entry in Reader(Source(file.fileno(), seekable=True)):
            try:
                name = clean(entry.name)
            except Refused as error:
                raise TarError(str(error)) from error
            if entry.kind == FILE and entry.sparse is None:
                self._members[name] = (entry.offset, entry.size)
            elif entry.kind == SYMLINK:
                self._links[name] = os.path.normpath(os.path.join(os.path.dirname(name), entry.link))
            elif entry.kind == LINK:
                self._links[name] = os.path.normpath(entry.link)

    def _find(self, name: str) -> tuple[int, int]:
        key = os.path.normpath(os.fsencode(name))
        for _ in range(MAX_LINKS):
            if key in self._members:
                return self._members[key]
            if key not in self._links:
                break
            key = self._links[key]
        raise FileNotFoundError(name)

    def has(self, name: str) -> bool:
        try:
            return self._find(name)[1] >= 0
        except FileNotFoundError:
            return False

    def open(self, name: str) -> tuple[BinaryIO, int]:
        offset, size = self._find(name)
        # an open file description of its own, since members are read side by side; the caller closes it
        file = open(f"/proc/self/fd/{self._file.fileno()}", "rb")  # noqa: SIM115
        file.seek(offset)
        return file, size
