"""Decisions: the `volumes` and `tmpfs` of one container -> its MountPoints, references resolved."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from specs.declared import Declared, Index
from specs.documents import Container, LongVolume, Volume
from specs.positions import Path
from specs.values import MountPoint, clean_path

#: The tables with options that each type of mount has.
_KINDS = ("bind", "volume", "tmpfs", "image")


class Wrong(Protocol):
    def __call__(self, path: Path, text: str, hint: str = "", *, at_key: bool = False) -> None: ...


class MountReader:
    """`inside` is the path in the source that a relative path means, `image` the reference of one that is
    mounted (empty where that has a problem)."""

    def __init__(
        self,
        model: Container,
        declared: Declared,
        index: Index,
        source_root: str,
        wrong: Wrong,
        inside: Callable[[str], str | None],
        image: Callable[[Path, str], str],
    ) -> None:
        self.model, self.declared, self.index = model, declared, index
        self.source_root, self.wrong, self.inside, self.image = source_root, wrong, inside, image

    def run(self) -> tuple[MountPoint, ...]:
        out: list[MountPoint] = []
        targets: set[str] = set()
        items: list[tuple[Path, Any]] = [
            (("volumes", n), one) for n, one in enumerate(self.model.volumes or ())
        ]
        items += [(("tmpfs",), one) for one in self.model.tmpfs or ()]
        for path, item in items:
            mount = self._long(path, item) if isinstance(item, LongVolume) else item
            mount = self._source(path, mount) if mount is not None else None
            if mount is None:
                continue
            if mount.target in targets:
                self.wrong(path, f"something is mounted on {mount.target!r} already")
            targets.add(mount.target)
            out.append(mount)
        return tuple(out)

    # ------------------------------------------------------------ long form

    def _long(self, path: Path, item: LongVolume) -> MountPoint | None:
        for kind in _KINDS:
            if getattr(item, kind) is not None and kind != item.type:
                article = "an" if kind == "image" else "a"
                text = f"options of {article} {kind} in a mount of type {item.type}"
                self.wrong((*path, kind), text, at_key=True)
        if item.type == "tmpfs":
            return self._tmpfs(path, item)
        if not item.source and item.type != "volume":
            self.wrong(path, "'source' is missing")
            return None
        if item.type == "bind":
            return self._bind(path, item)
        if item.type == "image":
            if item.read_only is False:
                self.wrong((*path, "read_only"), "an image is always mounted read-only")
            subpath = (item.image.subpath if item.image else None) or ""
            return MountPoint("image", item.source or "", item.target, True, subpath=subpath)
        return self._volume(path, item)

    def _tmpfs(self, path: Path, item: LongVolume) -> MountPoint:
        if item.source:
            self.wrong((*path, "source"), "a tmpfs has no source")
        given = item.tmpfs
        owner = {"uid": given.uid, "gid": given.gid} if given else {}
        return MountPoint(
            "tmpfs",
            "",
            item.target,
            bool(item.read_only),
            tmpfs_size=(given.size if given else None) or 0,
            tmpfs_mode=given.mode if given and given.mode is not None else 0o1777,
            tmpfs_options=tuple(
                sorted(f"{key}={value}" for key, value in owner.items() if value is not None)
            ),
        )

    def _bind(self, path: Path, item: LongVolume) -> MountPoint:
        """As Docker has it, what is about read-only goes with a mount that is."""
        options, read_only = item.bind, bool(item.read_only)
        recursive = (options.recursive if options else None) or ""
        if recursive in ("writable", "readonly") and not read_only:
            self.wrong((*path, "bind", "recursive"), f"{recursive} goes with read_only = true")
        propagation = (options.propagation if options else None) or "rprivate"
        if recursive == "readonly" and propagation != "rprivate":
            self.wrong((*path, "bind", "recursive"), "readonly goes with propagation rprivate")
        return MountPoint(
            "bind",
            item.source or "",
            item.target,
            read_only,
            propagation=propagation,
            create_source=bool(options and options.create_host_path),
            recursive="" if recursive == "enabled" else recursive,
            selinux=(options.selinux if options else None) or "",
        )

    def _volume(self, path: Path, item: LongVolume) -> MountPoint | None:
        options = item.volume
        labels = dict(options.labels or {}) if options else {}
        subpath = (options.subpath if options else None) or ""
        if item.source and labels:
            text, hint = "labels of a volume with a name", f"write labels in [volume.{item.source}]"
            self.wrong((*path, "volume", "labels"), text, hint, at_key=True)
        if not item.source and subpath:
            self.wrong((*path, "volume", "subpath"), "an anonymous volume has no part to be mounted")
            return None
        return MountPoint(
            "volume",
            item.source or "",
            item.target,
            bool(item.read_only),
            bool(options and options.nocopy),
            subpath=subpath,
            labels=tuple(sorted(labels.items())),
        )

    # ------------------------------------------------------------ references

    def _source(self, path: Path, mount: MountPoint) -> MountPoint | None:
        """The same mount with its volume's name, its image's reference, or its path on this machine."""
        match mount.kind:
            case "volume" if mount.source:
                return self._named(path, mount)
            case "image":
                reference = self.image(path, mount.source)
                return replace(mount, source=reference) if reference else None
            case "bind":
                return self._path(path, mount)
            case _:
                return mount

    def _named(self, path: Path, mount: MountPoint) -> MountPoint | None:
        full = self.index.full_name(self.declared.project, mount.source)
        volume = self.index.get("volume", full)
        if volume is None:
            hint = self.index.hint("volume", self.declared.project, mount.source)
            if "/" in mount.source and not hint.startswith("did"):
                hint = f"for a directory write ./{mount.source}"
            self.wrong(path, f"no volume {mount.source!r}", hint)
            return None
        return replace(mount, source=volume_name(volume))

    def _path(self, path: Path, mount: MountPoint) -> MountPoint | None:
        if mount.source.startswith("/"):
            return replace(mount, source=clean_path(mount.source))
        inside = self.inside(mount.source)
        if inside is None:
            self.wrong(path, f"path {mount.source!r} leaves the source")
            return None
        if not self.source_root:
            self.wrong(path, f"relative path {mount.source!r}: this source has no directory on the machine")
            return None
        return replace(mount, source=clean_path(posixpath.join(self.source_root, inside)))


def volume_name(declared: Declared) -> str:
    """What a volume is called on the machine: as it says itself; else an external one by its key, as Compose
    has it, and any other one by project and key."""
    model = declared.model if isinstance(declared.model, Volume) else declared.rest
    if isinstance(model, Volume) and model.name:
        return model.name
    external = isinstance(model, Volume) and model.external
    return declared.name if external else declared.full
