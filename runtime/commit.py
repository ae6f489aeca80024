"""Effects: what a container wrote: compared with its image, exported, made an image of.

A container's writable layer holds what it changed and, where something was mounted, places for the mounts
(runtime.images.difference); volumes, binds and the files that Stead mounts are never part of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_native_id

from runtime.attend import live_state, read_config
from runtime.build.change import changed
from runtime.build.config import HealthcheckConfig, History, ImageConfig, write_config
from runtime.build.config import read_config as read_image_config
from runtime.build.values import replace
from runtime.faults import Fault, faults
from runtime.images.changes import Unwritable, write_everything
from runtime.images.compose import CopiedLayer
from runtime.images.difference import Change, Stack
from runtime.images.store import ImageStore, StoredImage
from runtime.linux import mounts, overlay
from runtime.linux.cgroups import Cgroups
from runtime.paths import Paths
from runtime.pausing import paused
from runtime.records import ContainerRecord
from runtime.wishes import ContainerRequest, ProbeRequest
from specs.values import ImageRef


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """`name` None: the image is dangling. `created` is RFC 3339. `pause`: the container's processes do not
    run while what they wrote is read. `changes` are instructions of a Dockerfile."""

    created: str
    name: ImageRef | None = None
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    pause: bool = True


class Writings:
    """What the containers of one node wrote. Thread-safe; nothing here changes a container."""

    def __init__(self, paths: Paths, images: ImageStore, cgroups: Cgroups) -> None:
        self._paths, self._images, self._cgroups = paths, images, cgroups

    # ------------------------------------------------------------ look

    def diff(self, record: ContainerRecord) -> Iterator[Change]:
        """What differs from the image, sorted by path. Fault layer-invalid: paths too long to be told."""
        operation = "compare container"
        with faults(operation, record.name), self._stack(record) as stack:
            if stack is None:
                return
            try:
                yield from stack.changes(stack.mountpoints(self._destinations(record)))
            except Unwritable as error:
                raise Fault("layer-invalid", operation, record.name, str(error)) from error

    def export(self, record: ContainerRecord) -> Iterator[bytes]:
        """The container's file system as one tar, without what is mounted in it. Fault layer-invalid for what
        no tar of ours has: directories too deep."""
        operation = "export container"
        with faults(operation, record.name), self._shown(record) as root:
            try:
                yield from write_everything(root)
            except Unwritable as error:
                raise Fault("layer-invalid", operation, record.name, str(error)) from error

    @contextmanager
    def _stack(self, record: ContainerRecord) -> Iterator[Stack | None]:
        """The writable layer over the image's layers; None: it was never started."""
        upper = self._paths.container(record.id) / "upper"
        layers = self._images.ensure_layers(record.image_id)
        if not upper.is_dir():
            yield None
            return
        with closing(Stack(upper, layers)) as stack:
            yield stack

    def _destinations(self, record: ContainerRecord) -> list[str]:
        try:
            config = read_config(self._paths, record)
        except FileNotFoundError:  # it was never started as far as that
            return []
        return [str(item["destination"]) for item in config.get("mounts") or ()]

    @contextmanager
    def _shown(self, record: ContainerRecord) -> Iterator[Path]:
        """The root file system: as the running container has it, else mounted for this moment and out of
        sight, so that no crash leaves it mounted."""
        mounted = self._paths.rootfs(record.id)
        if mounts.is_mounted(mounted) and not record.decode().userns:  # else its owners are others
            yield mounted
            return
        upper = self._paths.container(record.id) / "upper"
        layers = self._images.ensure_lowers(record.image_id)
        lowers = [*([upper] if upper.is_dir() else []), *reversed(layers)]
        target = self._paths.run / f"export.{get_native_id()}.{record.id[:12]}"
        target.mkdir(mode=0o700, parents=True)  # after a boot nothing is there
        try:
            overlay.mount(lowers, None, None, target)
            root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            mounts.unmount(target)
            target.rmdir()
        try:
            yield Path(f"/proc/self/fd/{root}")
        finally:
            os.close(root)

    # ------------------------------------------------------------ commit

    def commit(self, record: ContainerRecord, request: CommitRequest) -> str:
        """An image of the container's image and what it wrote, with the container's own settings. Returns
        its id. Faults image-not-found, layer-invalid, request-invalid."""
        subject = f"container {record.name}"
        if request.name is not None and request.name.digest:
            raise Fault("request-invalid", "commit", subject, "a name with a digest cannot be given")
        with self._images.hold():
            image = self._image(record)
            before = read_image_config(self._images.config_of(image.id))
            given = merged(before, record.decode())
            config = changed(given, request.changes)
            diff_ids, chain = list(image.config["rootfs"]["diff_ids"] or ()), list(image.chain_ids)
            written = self._written(record, chain, subject, pause=request.pause)
            if written is not None:
                self._images.composer.unpack_copy(written, chain, subject)
                diff_ids.append(written.diff_id)
                chain.append(written.chain_id)
            entry = History(
                created_by=" ".join([*(given.entrypoint or ()), *(given.cmd or ())]),
                empty_layer=written is None,
                comment=request.message,
                author=request.author,
            )
            config = replace(config, history=(*config.history, entry), author=request.author or config.author)
            text = write_config(config, diff_ids, request.created)
            return self._images.add_image(text, chain, [request.name] if request.name else [], image.id)

    def _image(self, record: ContainerRecord) -> StoredImage:
        image = self._images.get(record.image_id)
        if image is None:
            cause = f"its image {record.image} is gone"
            raise Fault("image-not-found", "commit", f"container {record.name}", cause, "pull it")
        return image

    def _written(
        self, record: ContainerRecord, chain: Sequence[str], subject: str, *, pause: bool
    ) -> CopiedLayer | None:
        with self._stack(record) as stack:
            if stack is None:
                return None
            omit = stack.mountpoints(self._destinations(record))
            with self._paused(record, pause):
                return self._images.composer.copy_layer(stack, omit, chain[-1] if chain else "", subject)

    @contextmanager
    def _paused(self, record: ContainerRecord, pause: bool) -> Iterator[None]:
        if not pause or live_state(self._paths, record) is None:
            yield
            return
        path = str(read_config(self._paths, record)["linux"]["cgroupsPath"])
        with paused(self._cgroups, [(record.name, path)], self._paths):
            yield


def merged(image: ImageConfig, request: ContainerRequest) -> ImageConfig:
    """The image's config with what the container was given: its program, environment, user and so on. What
    the image asks of builds upon it (ONBUILD) is no part of a container."""
    config = image
    if request.entrypoint is not None:
        config = replace(config, entrypoint=request.entrypoint, cmd=request.command)
    elif request.command is not None:
        config = replace(config, cmd=request.command)
    ports = {port if "/" in port else f"{port}/tcp" for port in request.expose}
    ports |= {f"{port.container_port}/{port.protocol}" for port in request.ports}
    return replace(
        config,
        env={**config.env, **request.environment},
        labels={**config.labels, **request.labels},
        exposed_ports=config.exposed_ports | ports,
        working_dir=request.working_dir or config.working_dir,
        user=request.user or config.user,
        stop_signal=request.stop_signal or config.stop_signal,
        healthcheck=_healthcheck(request.probe, config.healthcheck),
        on_build=(),
    )


def _healthcheck(probe: ProbeRequest | None, own: HealthcheckConfig | None) -> HealthcheckConfig | None:
    """What of a probe the config has words for: a program. The image's own test stays where there is none."""
    if probe is None:
        return own
    if probe.disabled:
        return HealthcheckConfig(("NONE",))
    if not probe.exec and not probe.shell:
        return own
    return HealthcheckConfig(
        ("CMD", *probe.exec) if probe.exec else ("CMD-SHELL", probe.shell),
        interval=int(probe.interval * 1e9),
        timeout=int(probe.timeout * 1e9),
        start_period=int(probe.start_period * 1e9),
        start_interval=int(probe.start_interval * 1e9),
        retries=probe.retries,
    )
