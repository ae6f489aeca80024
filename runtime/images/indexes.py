"""Effects: indexes (manifest lists) that are put together here, kept under the root, and pushed.

Sources: OCI image-spec 1.1, image-index.md; docker CLI reference "docker manifest". What is listed is an
image of a registry or of this store; the index itself exists here only until it is pushed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runtime.faults import Fault, faults
from runtime.images.manifests import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    MAX_CONFIG,
    OCI_INDEX,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from runtime.images.push import media_type
from runtime.images.registry import Registries, Remote
from runtime.paths import write_atomically
from specs.values import ImageRef

MAX_ENTRIES = 1000  # images of one index
MAX_FILE = 64 * 1024 * 1024  # bytes of a kept index with its manifests

_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """What an image of an index is for: `os.version` and `os.features` are of Windows images only."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            found["variant"] = self.variant
        if self.os_version:
            found["os.version"] = self.os_version
        if self.os_features:
            found["os.features"] = list(self.os_features)
        return found


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of an index: `source` is the name that it was taken by, `manifest` its bytes as text."""

    source: str
    manifest: str
    target: Target
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def data(self) -> bytes:
        return self.manifest.encode()

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def document(self) -> dict[str, Any]:
        """The descriptor, as an index has it."""
        found: dict[str, Any] = {
            "mediaType": media_type(self.data, self.source),
            "size": len(self.data),
            "digest": self.digest,
            "platform": self.target.document(),
        }
        if self.annotations:
            found["annotations"] = dict(self.annotations)
        return found


@dataclass(frozen=True, slots=True)
class Draft:
    """An index that is not pushed yet."""

    name: str
    entries: tuple[Entry, ...]

    def document(self) -> bytes:
        """Docker's kind of list where every image is of Docker's kind, else an OCI index."""
        manifests = [entry.document() for entry in self.entries]
        is_docker = all(item["mediaType"] == DOCKER_MANIFEST for item in manifests)
        kind = (
            DOCKER_INDEX if is_docker and not any(entry.annotations for entry in self.entries) else OCI_INDEX
        )
        found = {"schemaVersion": 2, "mediaType": kind, "manifests": manifests}
        return json.dumps(found, indent=3).encode()


#: an image of this store by its name; None where it has none
Local = Callable[[ImageRef], Entry | None]


def remote_entries(remote: Remote, source: ImageRef, local: Local = lambda _: None) -> tuple[Entry, ...]:
    """The image that a registry has under a name, or every image of the index there. One that the registry
    does not have may be in this store."""
    try:
        data = remote.manifest().data
    except Fault as fault:
        found = local(source) if fault.code == "image-not-found" else None
        if found is None:
            raise
        return (found,)
    parsed = parse_manifest(data, source.familiar)
    if isinstance(parsed, Manifest):
        return (_entry(remote, source, data, parsed, None),)
    raw = [item.get("platform") for item in json.loads(data)["manifests"]]
    entries = []
    for child, platform in zip(parsed.entries, raw, strict=True):
        if child.platform is not None and child.platform.os == "unknown":
            continue  # an attestation about another entry
        data = remote.manifest(child.digest).data
        inner = parse_manifest(data, source.familiar)
        if isinstance(inner, Index):
            cause = "its index has an index in it"
            raise Fault("manifest-invalid", "read manifest of", source.familiar, cause)
        place = ImageRef(source.host, source.repository, "", child.digest)
        entries.append(_entry(remote, place, data, inner, platform))
    return tuple(entries)


def _entry(remote: Remote, source: ImageRef, data: bytes, manifest: Manifest, platform: Any) -> Entry:
    """`platform` is what an index says of it, which is believed before its config."""
    if isinstance(platform, dict) and platform.get("architecture"):
        target = _target(platform)
    else:
        target = target_of(remote.read(manifest.config, MAX_CONFIG), source.familiar)
    return Entry(str(source), data.decode(), target)


def target_of(config: bytes, subject: str) -> Target:
    """What an image config says that it is for."""
    return _target(parse_config(config, subject).data)


def _target(value: Mapping[str, Any]) -> Target:
    def text(key: str) -> str:
        found = value.get(key)
        return found if isinstance(found, str) else ""

    features = value.get("os.features")
    listed = tuple(item for item in features if isinstance(item, str)) if isinstance(features, list) else ()
    return Target(text("architecture"), text("os"), text("variant"), text("os.version"), listed)


class Indexes:
    """The drafts under `directory`. One process at a time changes a draft."""

    def __init__(self, directory: Path, registries: Registries) -> None:
        self._directory, self._registries = directory, registries

    def _path(self, name: ImageRef) -> Path:
        return self._directory / f"{quote(str(name), safe='')}.json"

    def get(self, name: ImageRef) -> Draft | None:
        with faults("read index", name.familiar):
            try:
                text = self._path(name).read_text()
            except FileNotFoundError:
                return None
        try:
            return _decode(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            cause = f"{self._path(name)} is damaged"
            raise Fault("manifest-invalid", "read index", name.familiar, cause, "remove it") from error

    def need(self, operation: str, name: ImageRef) -> Draft:
        draft = self.get(name)
        if draft is None:
            hint = "make it with stead manifest create"
            raise Fault("image-not-found", operation, name.familiar, "there is no such index here", hint)
        return draft

    def _keep(self, name: ImageRef, draft: Draft) -> None:
        data = json.dumps(asdict(draft), indent=1).encode()
        with faults("keep index", name.familiar):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if len(quote(str(name), safe="")) > 240 or len(data) > MAX_FILE:
                raise Fault("request-invalid", "keep index", name.familiar, "it is too large, or its name is")
            write_atomically(self._path(name), data)

    def create(
        self,
        name: ImageRef,
        sources: Sequence[ImageRef],
        *,
        amend: bool = False,
        local: Local = lambda _: None,
    ) -> Draft:
        """An index of these images; `amend`: added to the one that is here. An image whose digest it has
        already is not listed twice."""
        if name.digest:
            raise Fault("request-invalid", "create index", name.familiar, "a digest cannot be chosen")
        former = self.get(name)
        if former is not None and not amend:
            cause = "there is one of this name already"
            raise Fault("request-invalid", "create index", name.familiar, cause, "--amend adds to it")
        entries = {entry.digest: entry for entry in (former.entries if former else ())}
        for source in sources:
            remote = self._registries.remote(source, "read manifest of")
            for entry in remote_entries(remote, source, local):
                entries[entry.digest] = entry
        if len(entries) > MAX_ENTRIES:
            cause = f"it would have {len(entries)} images, more than {MAX_ENTRIES}"
            raise Fault("request-invalid", "create index", name.familiar, cause)
        draft = Draft(str(name), tuple(entries.values()))
        self._keep(name, draft)
        return draft

    def annotate(
        self, name: ImageRef, source: str, change: Target, annotations: dict[str, str] | None = None
    ) -> Draft:
        """Say of one image what it is for: fields of `change` that are not empty. `source` is its name or
        digest.
        """
        draft = self.need("annotate index", name)
        chosen = [entry for entry in draft.entries if source in (entry.source, entry.digest)]
        if not chosen:
            there = ", ".join(entry.source for entry in draft.entries)
            cause = f"it has no image {source}"
            raise Fault("request-invalid", "annotate index", name.familiar, cause, f"it has {there}")
        given = asdict(change)
        for key in ("architecture", "os", "variant"):
            if given[key] and not _WORD.match(given[key]):
                cause = f"{given[key]!r} is no {key}"
                raise Fault("request-invalid", "annotate index", name.familiar, cause)
        fields = {key: value for key, value in given.items() if value}
        changed = tuple(
            replace(
                entry,
                target=replace(entry.target, **fields),
                annotations={**entry.annotations, **(annotations or {})},
            )
            if entry in chosen
            else entry
            for entry in draft.entries
        )
        draft = Draft(draft.name, changed)
        self._keep(name, draft)
        return draft

    def remove(self, name: ImageRef) -> None:
        self.need("remove index", name)
        with faults("remove index", name.familiar):
            self._path(name).unlink(missing_ok=True)

    def checked(self, name: ImageRef) -> Draft:
        """A draft that can be pushed: it has images, and of each it is known what it is for."""
        draft = self.need("push index", name)
        if not draft.entries:
            raise Fault("request-invalid", "push index", name.familiar, "it has no images")
        for entry in draft.entries:
            if not entry.target.architecture or not entry.target.os:
                cause, hint = f"nothing says what {entry.source} is for", "annotate it with --os and --arch"
                raise Fault("request-invalid", "push index", name.familiar, cause, hint)
        return draft


def source_repository(entry: Entry, host: str) -> tuple[str, ...]:
    """The repository of a registry that an image was taken from, where it is on that host."""
    try:
        source = ImageRef.parse(entry.source)
    except ValueError:
        return ()  # an image of this store, by its id
    return (source.repository,) if source.host == host else ()


def _decode(value: dict[str, Any]) -> Draft:
    entries = []
    for item in value["entries"]:
        target = dict(item["target"], os_features=tuple(item["target"]["os_features"]))
        entries.append(Entry(item["source"], item["manifest"], Target(**target), dict(item["annotations"])))
    return Draft(value["name"], tuple(entries))
