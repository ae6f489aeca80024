"""Effects: what becomes of a build's result beside the image store: directories, archives, registries.

Nothing half-written has the final name: archives are renamed when they are complete. Results for several
platforms are one OCI index, or a directory for each.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runtime.build import selection, tree
from runtime.build.copy import CopyError, Copying
from runtime.build.request import BuildRequest, Output
from runtime.build.selection import Source
from runtime.build.workspace import Workspace
from runtime.faults import Fault, faults
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.images.sinks import Sink
    from runtime.images.store import ImageStore

KINDS = ("image", "registry", "local", "tar", "oci", "docker")
_INDEX = "application/vnd.oci.image.index.v1+json"
_NAME, _TAG = "io.containerd.image.name", "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Result:
    """What was built for one platform; `id` is empty where no image was recorded."""

    platform: str
    chain: tuple[str, ...]
    id: str


def needs_image(request: BuildRequest) -> bool:
    """Whether the store keeps the result under its names."""
    kinds = [output.kind for output in request.outputs] or ["image"]
    return any(kind in ("image", "registry") for kind in kinds) or any(
        output.kind == "docker" and not output.dest for output in request.outputs
    )


def check(request: BuildRequest) -> None:
    """Fault request-invalid for an output that cannot be, before anything is built."""
    for output in request.outputs:
        cause = ""
        if output.kind not in KINDS:
            cause = f"output type {output.kind} is none of {', '.join(KINDS)}"
        elif output.kind in ("local", "tar", "oci") and not output.dest:
            cause = f"output type {output.kind} needs a destination (dest=PATH)"
        elif output.kind == "registry" and not request.names:
            cause = "an image without a name cannot be pushed"
        elif output.kind == "docker" and len(request.platforms) > 1:
            cause = "output type docker has one platform; use type=oci"
        if cause:
            raise Fault("request-invalid", "build", request.label, cause)


def write(
    output: Output,
    results: Sequence[Result],
    request: BuildRequest,
    work: Workspace,
    store: Callable[[], ImageStore],
) -> None:
    """Faults of the store, request-invalid where the destination cannot be, disk-full, kernel-error."""
    with faults("write output to", output.dest or "the registry"):
        match output.kind:
            case "local":
                _local(Path(output.dest), results, work)
            case "tar":
                _tar(output.dest, results, work)
            case "oci" | "docker" if output.dest:
                _archive(output, results, request.names, work, store())
            case "registry":
                _push(request.names, results, store())
            case "image" if output.attributes.get("push") == "true":
                _push(request.names, results, store())
            case _:
                pass


def _push(names: Sequence[ImageRef], results: Sequence[Result], store: ImageStore) -> None:
    """Several platforms become one index."""
    for name in names:
        if len(results) > 1:
            store.push_index(name, [result.id for result in results])
        else:
            store.push(name)


# ---------------------------------------------------------------- files


def _local(place: Path, results: Sequence[Result], work: Workspace) -> None:
    """The files themselves, over what is there."""
    for result in results:
        into = place / result.platform.replace("/", "_") if len(results) > 1 else place
        into.mkdir(parents=True, exist_ok=True)
        source = Source(work.base(result.chain), tree.Sums(work.base(result.chain)), "the result", owner=True)
        root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            Copying(root).into("/", source, selection.pick(source, "/"))
        except CopyError as error:
            raise Fault("request-invalid", "write output to", str(place), str(error)) from error
        finally:
            os.close(root)


def _tar(dest: str, results: Sequence[Result], work: Workspace) -> None:
    """All files as one archive, as the layers together show them."""
    from runtime.images.changes import Unwritable, write_tree

    if len(results) > 1:
        cause = "output type tar has one platform; use type=oci or type=local"
        raise Fault("request-invalid", "write output to", dest, cause)
    with _file(dest) as file:
        try:
            for piece in write_tree(Path(f"/proc/self/fd/{work.base(results[0].chain)}")):
                file.write(piece)
        except Unwritable as error:
            raise Fault("layer-invalid", "write output to", dest, str(error)) from error


@contextmanager
def _file(dest: str) -> Iterator[BinaryIO]:
    if dest == "-":
        with open(1, "wb", closefd=False) as standard:
            yield standard
        return
    from runtime.images.sinks import written

    with written(Path(dest)) as file:
        yield file


# ---------------------------------------------------------------- images


def _archive(
    output: Output, results: Sequence[Result], names: Sequence[ImageRef], work: Workspace, store: ImageStore
) -> None:
    from runtime.images.save import ToSave
    from runtime.images.sinks import FolderSink, TarSink, written_folder

    form = "docker-archive" if output.kind == "docker" else "oci-archive"
    several = len(results) > 1
    images = [ToSave(result.id, () if several else tuple(names)) for result in results]

    def save(sink: Sink) -> None:
        store.saver.save(images, form, _Nested(sink, names) if several else sink)

    if output.attributes.get("tar") == "false":
        try:
            with written_folder(Path(output.dest)) as folder:
                save(FolderSink(folder))
        except FileExistsError as error:
            cause = "it exists and is not an empty directory"
            raise Fault("request-invalid", "write output to", output.dest, cause) from error
        return
    with _file(output.dest) as file:
        sink = TarSink(file, work.directory)
        save(sink)
        sink.close()


class _Nested:
    """Makes of the index of a layout one that the layout has under each name: OCI image-spec,
    image-index.md."""

    def __init__(self, sink: Sink, names: Sequence[ImageRef]) -> None:
        self._sink, self._names = sink, names

    def put(self, name: str, data: bytes) -> None:
        if name != "index.json":
            self._sink.put(name, data)
            return
        digest = hashlib.sha256(data).hexdigest()
        self._sink.put(f"blobs/sha256/{digest}", data)
        entry = {"mediaType": _INDEX, "digest": f"sha256:{digest}", "size": len(data)}
        entries = [
            {**entry, "annotations": {_NAME: str(ref), _TAG: ref.tag}} for ref in self._names if ref.tag
        ]
        document = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries or [entry]}
        self._sink.put(name, json.dumps(document, separators=(",", ":")).encode())

    def stream(self, name: str, pieces: Iterable[bytes], size: int | None = None) -> int:
        return self._sink.stream(name, pieces, size)
