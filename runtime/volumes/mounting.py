"""Effects: what the mounts of a container become in its OCI config, with all that they need first.

A part of a volume, and an image, are mounted at `run/containers/<id>/mount-<n>` by us and bound from there
by the container: paths in what containers write to are resolved here once, by openat2(2), so that no link in
a volume leads out of it, and config.json stays what other runtimes understand. They go when the container is
cleared.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.faults import Fault, faults
from runtime.images.store import ImageStore
from runtime.linux import idmapped, mounts, openat2, overlay, selinux
from runtime.paths import Paths
from runtime.volumes.store import Volumes
from runtime.wishes import ContainerRequest
from specs.values import MountPoint, clean_path

Mounts = list[dict[str, Any]]
PREFIX = "mount-"


def all_mounts(request: ContainerRequest, declared: Sequence[str]) -> tuple[MountPoint, ...]:
    """Those of the request, and an anonymous volume for each path `declared` by the image (VOLUME) that the
    request mounts nothing at. Pure."""
    taken = {mount.target for mount in request.mounts}
    paths = sorted({clean_path(path) for path in declared if path.startswith("/")} - taken - {"/"})
    return (*request.mounts, *(MountPoint("volume", "", path) for path in paths))


def declared_by(image: Mapping[str, Any]) -> tuple[str, ...]:
    """The VOLUMEs of an image's config."""
    return tuple((image.get("config") or {}).get("Volumes") or ())


def helpers(request: ContainerRequest) -> tuple[str, ...]:
    """Names, in the live directory, of what is mounted for the container before it starts. Pure."""
    return tuple(f"{PREFIX}{n}" for n, mount in enumerate(request.mounts) if _helped(mount))


def _helped(mount: MountPoint) -> bool:
    return mount.kind == "image" or bool(mount.subpath)


@dataclass(frozen=True, slots=True)
class User:
    """A container as its mounts see it. `images`: reference -> id of those that it mounts; `declared`: the
    VOLUMEs of its own image; `rootfs` is what volumes are filled from."""

    id: str
    request: ContainerRequest
    rootfs: Path
    declared: tuple[str, ...] = ()
    images: Mapping[str, str] | None = None
    userns: str = ""  # file of its user namespace, where it has one
    owner: int = 0  # the user and group of the host that are 0 in it


class Mounting:
    """Thread-safe for different containers."""

    def __init__(self, paths: Paths, volumes: Volumes, images: ImageStore | None) -> None:
        self._paths = paths
        self._volumes = volumes
        self._images = images

    def prepare(self, user: User, anonymous: Mapping[str, str]) -> Mounts:
        """The OCI mounts, with volumes mounted and filled, short-form bind sources made. Repeatable.

        `anonymous`: target -> volume. In `user.rootfs` nothing runs yet. Faults volume-not-found,
        volume-refused, mount-source-missing, image-not-found.
        """
        found = []
        for n, mount in enumerate(all_mounts(user.request, user.declared)):
            found.append(self._prepare(user, n, mount, anonymous))
        return found

    def mend(self, user: User, pid: int) -> None:
        """Bring back what somebody unmounted under the container, whose process is `pid`."""
        for n, mount in enumerate(user.request.mounts):
            if mount.kind == "volume" and mount.source and not mount.subpath:
                self._volumes.remount(mount.source, pid, mount.target)
            if _helped(mount) and not mounts.is_mounted(self._paths.live(user.id) / f"{PREFIX}{n}"):
                self._prepare(user, n, mount, {})

    def clear(self, id: str) -> None:
        """Unmount what was mounted for the container; volumes that nobody else uses go, too."""
        live = self._paths.live(id)
        for entry in sorted(live.glob(f"{PREFIX}*")) if live.is_dir() else ():
            mounts.unmount(entry)
        self._volumes.release(id)

    # ------------------------------------------------------------ one mount

    def _prepare(self, user: User, n: int, mount: MountPoint, anonymous: Mapping[str, str]) -> dict[str, Any]:
        if mount.kind == "tmpfs":
            return {
                "destination": mount.target,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": tmpfs_options(mount),
            }
        source = self._source(user, n, mount, anonymous)
        if mount.selinux and selinux.enabled():
            with faults("relabel", f"{source} of {user.request.name}"):
                selinux.relabel(source, selinux.label(user.request.name if mount.selinux == "Z" else ""))
        return {
            "destination": mount.target,
            "type": "bind",
            "source": source,
            "options": bind_options(mount),
            **({"mapped": True} if mount.kind == "image" else {}),
        }

    def _source(self, user: User, n: int, mount: MountPoint, anonymous: Mapping[str, str]) -> str:
        helper = self._paths.live(user.id) / f"{PREFIX}{n}"
        match mount.kind:
            case "bind":
                return _bind_source(mount, user.request.name)
            case "image":
                return str(self._image(user, mount, helper))
            case _:
                name = mount.source or anonymous[mount.target]
                path = self._volumes.use(
                    name,
                    user.id,
                    rootfs=user.rootfs,
                    target=mount.target,
                    nocopy=mount.nocopy or bool(mount.subpath),
                )
                if not mount.subpath:
                    return str(path)
                return str(_part(path, mount, f"volume {name}", helper))

    def _image(self, user: User, mount: MountPoint, helper: Path) -> Path:
        if mounts.is_mounted(helper):
            return helper
        id = (user.images or {}).get(mount.source, "")
        image = self._images.get(id) if self._images is not None and id else None
        if image is None or self._images is None:
            cause = f"image {mount.source}, which it mounts, is not in the store"
            raise Fault("image-not-found", "start container", user.request.name, cause, "pull it")
        layers = self._images.ensure_layers(image.id)
        with faults("mount image", mount.source):
            helper.mkdir(mode=0o755, exist_ok=True)
            lowers = list(reversed(layers))
            if user.userns:
                idmapped.mount(lowers, None, helper, userns=user.userns, owner=(user.owner, user.owner))
            else:
                overlay.mount(lowers, None, None, helper)
        if not mount.subpath:
            return helper
        try:
            return _part(helper, mount, f"image {mount.source}", helper)
        except BaseException:
            mounts.unmount(helper)
            raise


def _part(whole: Path, mount: MountPoint, what: str, helper: Path) -> Path:
    """Mount the part `mount.subpath` of `whole` at `helper`, which may be `whole` itself. No link in it
    leads out: openat2(2). Fault mount-source-missing."""
    if whole != helper and mounts.is_mounted(helper):
        return helper
    root = os.open(whole, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2.open_in_root(root, mount.subpath, os.O_PATH)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        cause = f"{what} has no {mount.subpath}"
        raise Fault(
            "mount-source-missing", "mount", mount.target, cause, "make it, or correct subpath"
        ) from error
    finally:
        os.close(root)
    with faults("mount", f"{mount.subpath} of {what}"):
        try:
            tree = mounts.open_tree("", dirfd=fd)
            directory = openat2.is_directory(fd)
        finally:
            os.close(fd)
        try:
            if whole == helper:
                mounts.unmount(helper)
            _make_place(helper, directory=directory)
            mounts.attach(tree, helper)
        finally:
            os.close(tree)
    return helper


def _make_place(helper: Path, *, directory: bool) -> None:
    if helper.is_dir() and not directory:
        helper.rmdir()
    elif helper.is_file() and directory:
        helper.unlink()
    if directory:
        helper.mkdir(mode=0o755, exist_ok=True)
    else:
        helper.touch(mode=0o644)


def _bind_source(mount: MountPoint, container: str) -> str:
    """The source, made as a directory where the short form asks for it. Fault mount-source-missing."""
    if not os.path.exists(mount.source):
        if not mount.create_source:
            cause = f"its source {mount.source} does not exist"
            raise Fault("mount-source-missing", "mount", f"{mount.target} of {container}", cause, "create it")
        with faults("create source of mount", f"{mount.target} of {container}"):
            os.makedirs(mount.source, mode=0o755, exist_ok=True)
    return mount.source


# ---------------------------------------------------------------- options, as config.json has them


def bind_options(mount: MountPoint) -> list[str]:
    """`rro` is read-only with all that is mounted below, `ro` the mount itself (runtime-spec, config.md)."""
    whole = "bind" if mount.recursive == "disabled" else "rbind"
    if mount.kind == "image":
        return [whole, mount.propagation, "rro"]
    if not mount.read_only:
        return [whole, mount.propagation, "rw"]
    deep = whole == "rbind" and mount.recursive != "writable"
    return [whole, mount.propagation, "rro" if deep else "ro"]


def tmpfs_options(mount: MountPoint) -> list[str]:
    """nosuid, nodev and noexec unless the mount asks for the opposite."""
    asked = set(mount.tmpfs_options)
    sealed = [f"no{word}" for word in ("suid", "dev", "exec") if word not in asked]
    options = [*sealed, "ro" if mount.read_only else "rw", f"mode={mount.tmpfs_mode:o}"]
    options += [f"size={mount.tmpfs_size}"] if mount.tmpfs_size else []
    return options + [word for word in mount.tmpfs_options if "=" in word]
