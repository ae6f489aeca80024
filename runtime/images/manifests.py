"""Values: manifests, indexes and image configs, parsed from bytes that a registry or an archive gave.

Sources: OCI image-spec 1.1 (manifest.md, image-index.md, config.md), Docker "Image Manifest V2, Schema 2".
Bytes are kept verbatim by the caller: an image's id is the sha256 of its config as it was sent.
Everything here raises Fault manifest-invalid or platform-missing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runtime.faults import Fault
from specs.values import Digest

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ACCEPT = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"
_LAYER_PREFIXES = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")

MAX_MANIFEST = 4 * 1024 * 1024  # bytes; what registries accept at most
MAX_CONFIG = 8 * 1024 * 1024  # bytes
MAX_LAYERS = 500
MAX_INDEX_ENTRIES = 1000
MAX_BLOB = 1 << 40  # bytes that one descriptor may promise


# ---------------------------------------------------------------- platforms

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "i386": ("386", ""),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""),
    "mips64": ("mips64le", ""),
}
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_KNOWN = frozenset(name for name, _ in _MACHINES.values())
_SYSTEMS = ("linux", "windows", "darwin", "freebsd")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """`os/architecture[/variant]`, with the variant that a missing one means (arm64 = arm64/v8)."""

    os: str = "linux"
    architecture: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/arm/v7`; `arm64` is one of Linux, `linux` this machine's kind of it. ValueError."""
        parts = text.lower().split("/")
        if len(parts) not in (1, 2, 3) or not all(_PART.match(part) for part in parts):
            raise ValueError(f"cannot read platform {text!r}: write linux/amd64 or linux/arm/v7")
        if len(parts) == 1 and parts[0] in _SYSTEMS:
            own = host_platform()
            return cls.of(parts[0], own.architecture, own.variant)
        if len(parts) == 1:
            parts.insert(0, "linux")
        elif _ARCHITECTURES.get(parts[0], parts[0]) in _KNOWN:
            raise ValueError(f"cannot read platform {text!r}: write linux/{text}")
        return cls.of(*parts)

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Platform:
        architecture = _ARCHITECTURES.get(architecture, architecture)
        if variant.isdigit():
            variant = "v" + variant
        return cls(os, architecture, variant or _DEFAULT_VARIANTS.get(architecture, ""))

    @classmethod
    def of_machine(cls, machine: str) -> Platform:
        """The platform that the kernel's name of the machine (`uname -m`) means."""
        architecture, variant = _MACHINES.get(machine, (machine, ""))
        return cls.of("linux", architecture, variant)

    def __str__(self) -> str:
        variant = "" if (self.architecture, self.variant) == ("arm64", "v8") else self.variant
        return "/".join(part for part in (self.os, self.architecture, variant) if part)

    def fitness(self, wanted: Platform) -> int:
        """How well an image for this platform suits `wanted`; 0: not at all.

        arm/v7 runs v6 and v5, arm64/v9 runs v8: the highest that is not above what is wanted.
        amd64/v2 and above are skipped unless asked for.
        """
        if (self.os, self.architecture) != (wanted.os, wanted.architecture):
            return 0
        if self.variant == wanted.variant:
            return 1000
        if self.architecture in ("arm", "arm64", "amd64"):
            mine, most = _level(self.variant), _level(wanted.variant)
            return 1 + mine if 0 <= mine <= most else 0
        return 1 if not self.variant or not wanted.variant else 0


def _level(variant: str) -> int:
    digits = variant.removeprefix("v")
    return int(digits) if digits.isdigit() and len(digits) < 3 else 0 if not variant else -1


def host_platform() -> Platform:
    return Platform.of_machine(os.uname().machine)


# ---------------------------------------------------------------- manifests


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points at a blob: its digest (sha256), size in bytes and claimed type."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    name: str = ""  # annotations of OCI layouts: the reference, or the tag alone
    urls: tuple[str, ...] = ()

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform: its config and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """The same image for several platforms, or the table of contents of an OCI layout."""

    entries: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The parts of an image config that the store acts on; `data` is all of it."""

    platform: Platform
    diff_ids: tuple[str, ...]
    created: str
    data: Mapping[str, Any]


def invalid(subject: str, cause: str, hint: str = "") -> Fault:
    return Fault("manifest-invalid", "read manifest of", subject, cause, hint)


def parse_json(data: bytes, subject: str, limit: int = MAX_MANIFEST) -> dict[str, Any]:
    """A JSON object of at most `limit` bytes."""
    if len(data) > limit:
        raise invalid(subject, f"it has more than {limit} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise invalid(subject, f"it is not JSON: {str(error).lower()}") from error
    if not isinstance(value, dict):
        raise invalid(subject, "it is not a JSON object")
    return value


def parse_manifest(data: bytes, subject: str, content_type: str = "") -> Manifest | Index:
    """What a registry answers for a tag or digest. Its own `mediaType` wins over `content_type`."""
    value = parse_json(data, subject)
    media_type = _text(value.get("mediaType")) or content_type.partition(";")[0].strip()
    if value.get("schemaVersion") == 1 or media_type.startswith(_SCHEMA1):
        raise invalid(
            subject,
            "it is of the obsolete schema 1, which names layers by no verifiable content",
            "push the image again with a current tool",
        )
    if value.get("schemaVersion") != 2:
        raise invalid(subject, f"its schemaVersion is {value.get('schemaVersion')!r}, not 2")
    if "manifests" in value and ("layers" in value or "config" in value):
        raise invalid(subject, "it is both an index and a manifest")
    if "manifests" in value:
        if media_type in (OCI_MANIFEST, DOCKER_MANIFEST):
            raise invalid(subject, f"it is an index, but says {media_type}")
        return _index(value, subject)
    if media_type in (OCI_INDEX, DOCKER_INDEX):
        raise invalid(subject, f"it is no index, but says {media_type}")
    return _manifest(value, subject)


def _index(value: Mapping[str, Any], subject: str) -> Index:
    entries = _list(value, "manifests", subject, MAX_INDEX_ENTRIES)
    return Index(tuple(_descriptor(entry, subject) for entry in entries))


def _manifest(value: Mapping[str, Any], subject: str) -> Manifest:
    kind = _text(value.get("artifactType"))
    if _text(value.get("mediaType")) == _ARTIFACT:
        raise invalid(subject, f"it is not a container image but an artifact ({kind or 'of no type'})")
    config = _descriptor(value.get("config"), subject)
    if config.media_type not in (DOCKER_CONFIG, OCI_CONFIG):
        kind = kind or config.media_type or "of no type"
        raise invalid(subject, f"it is not a container image but an artifact ({kind})")
    if config.size > MAX_CONFIG:
        raise invalid(subject, f"its config has {config.size} bytes, more than {MAX_CONFIG}")
    layers = tuple(_descriptor(entry, subject) for entry in _list(value, "layers", subject, MAX_LAYERS))
    for layer in layers:
        kind = layer.media_type
        if not kind.startswith(_LAYER_PREFIXES) or "tar" not in kind or kind.endswith("+encrypted"):
            raise invalid(subject, f"layer {layer.digest} is {kind or 'of no type'}, not a tar archive")
    return Manifest(config, layers)


def _descriptor(value: object, subject: str) -> Descriptor:
    if not isinstance(value, dict):
        raise invalid(subject, "a descriptor is not a JSON object")
    try:
        digest = Digest.parse(_text(value.get("digest")))
    except ValueError as error:
        raise invalid(subject, str(error)) from error
    if digest.algorithm != "sha256":
        raise invalid(subject, f"digest {digest} is not sha256, the only kind that is supported")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_BLOB:
        raise invalid(subject, f"{digest} has no valid size")
    notes = value.get("annotations")
    notes = notes if isinstance(notes, dict) else {}
    attestation = notes.get("vnd.docker.reference.type") == "attestation-manifest"
    place = value.get("platform")
    platform = Platform("unknown", "unknown") if attestation else _platform(place, subject)
    names = (notes.get("io.containerd.image.name"), notes.get("org.opencontainers.image.ref.name"))
    urls = value.get("urls")
    return Descriptor(
        _text(value.get("mediaType")),
        str(digest),
        size,
        platform,
        next((_text(name) for name in names if name), ""),
        tuple(_text(url) for url in urls) if isinstance(urls, list) else (),
    )


def _platform(value: object, subject: str) -> Platform | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid(subject, "a platform is not a JSON object")
    parts = (_text(value.get(key)) for key in ("os", "architecture", "variant"))
    return Platform.of(*parts)


def _list(value: Mapping[str, Any], key: str, subject: str, most: int) -> list[Any]:
    items = value.get(key)
    if not isinstance(items, list):
        raise invalid(subject, f"it has no list of {key}")
    if len(items) > most:
        raise invalid(subject, f"it has {len(items)} {key}, more than {most}")
    return items


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def select(index: Index, wanted: Platform, subject: str) -> Descriptor:
    """The entry for `wanted`. Attestations (platform unknown/unknown) are skipped; an entry that names no
    platform is taken when nothing better is there. Raises Fault platform-missing naming what there is.
    """
    images = [
        entry
        for entry in index.entries
        if entry.media_type in ("", OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_INDEX)
    ]
    rated = [(entry.platform.fitness(wanted), entry) for entry in images if entry.platform is not None]
    best = max((rate for rate, _ in rated), default=0)
    if best:
        return next(entry for rate, entry in rated if rate == best)
    unnamed = [entry for entry in images if entry.platform is None]
    if unnamed:
        return unnamed[0]
    there = sorted(
        {str(entry.platform) for entry in images if entry.platform and entry.platform.os != "unknown"}
    )
    raise Fault(
        "platform-missing",
        "pull image",
        subject,
        f"it has no variant for {wanted}",
        f"there is {', '.join(there)}" if there else "",
    )


def parse_config(data: bytes, subject: str) -> ImageConfig:
    """An image config; its list of diff ids is what layers are verified against."""
    value = parse_json(data, subject, MAX_CONFIG)
    rootfs = value.get("rootfs")
    if not isinstance(rootfs, dict) or not isinstance(rootfs.get("diff_ids"), list | None):
        raise invalid(subject, "its config has no rootfs.diff_ids")
    diff_ids = tuple(_text(item) for item in rootfs.get("diff_ids") or ())
    if len(diff_ids) > MAX_LAYERS:
        raise invalid(subject, f"it has {len(diff_ids)} layers, more than {MAX_LAYERS}")
    for diff_id in diff_ids:
        try:
            algorithm = Digest.parse(diff_id).algorithm
        except ValueError as error:
            raise invalid(subject, str(error)) from error
        if algorithm != "sha256":
            raise invalid(subject, f"diff id {diff_id} is not sha256")
    for key in ("os", "architecture", "variant"):
        if (part := _text(value.get(key))) and not _PART.match(part):
            raise invalid(subject, f"its config says {key} {part[:80]!r}, which is none")
    inner = value.get("config")
    if inner is not None and not isinstance(inner, dict):
        raise invalid(subject, "its config.config is not a JSON object")
    for key, value_of in (inner or {}).items():
        if key in _RUN and value_of is not None and not _RUN[key](value_of):
            raise invalid(subject, f"its config says something else for {key} than what may stand there")
    return ImageConfig(config_platform(value), diff_ids, _text(value.get("created")), value)


#: NUL, and halves of characters as JSON can spell them; those that stand for a byte which is no UTF-8
#: (os.fsencode) are what a Dockerfile with such a byte gives.
_NO_TEXT = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _NO_TEXT.search(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_command(value: Any) -> bool:
    """A list; old images have one word as text."""
    return _is_text(value) or _is_texts(value)


def _is_set(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value))


def _is_table(value: Any) -> bool:
    return _is_set(value) and all(one is None or _is_text(one) for one in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_check(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_texts(value.get("Test") or []):
        return False
    times = (value.get(key) for key in ("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"))
    return all(time is None or _is_number(time) for time in times)


#: What of an image is used to run it, by the types that docker has: image-spec, config.md.
_RUN = {
    "User": _is_text,
    "WorkingDir": _is_text,
    "StopSignal": _is_text,
    "Env": _is_texts,
    "Shell": _is_texts,
    "OnBuild": _is_texts,
    "Cmd": _is_command,
    "Entrypoint": _is_command,
    "Volumes": _is_set,
    "ExposedPorts": _is_set,
    "Labels": _is_table,
    "Healthcheck": _is_check,
}


def config_platform(value: Mapping[str, Any]) -> Platform:
    """What an image config says that it is for."""
    return Platform.of(
        _text(value.get("os")) or "linux", _text(value.get("architecture")), _text(value.get("variant"))
    )


def match_layers(manifest: Manifest, config: ImageConfig, subject: str) -> None:
    """Every layer has a diff id and the other way round, or Fault manifest-invalid."""
    if len(manifest.layers) != len(config.diff_ids):
        raise invalid(
            subject, f"it has {len(manifest.layers)} layers, but its config names {len(config.diff_ids)}"
        )


def check_platform(config: ImageConfig, wanted: Platform, subject: str) -> None:
    """An image that says what it is for must be for `wanted`: better told now than as `exec format error`."""
    found = config.platform
    if not config.data.get("variant") and found.architecture == wanted.architecture:
        found = replace(found, variant=wanted.variant)  # many say it in the index only
    if found.architecture and not found.fitness(wanted):
        raise Fault("platform-missing", "pull image", subject, f"it is for {found}, not for {wanted}")
