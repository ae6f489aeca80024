"""Effects: `cp` between this machine and a container, or a tar archive on a descriptor."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runtime import attend
from runtime.backups.holds import COPYING, Holds
from runtime.cp import container, rules
from runtime.cp.worker import Entered, Failed, Worker, host
from runtime.faults import Fault, faults
from runtime.images.store import ImageStore
from runtime.linux import mounts, overlay
from runtime.paths import USERNS, Paths
from runtime.records import ContainerRecord
from runtime.volumes.mounting import all_mounts, declared_by
from runtime.volumes.records import read_anonymous, read_volume

Enter = Callable[[], Entered]


class Copying:
    """What is copied of and into one container. `images` has the layers of one that does not run."""

    def __init__(self, paths: Paths, images: ImageStore, record: ContainerRecord) -> None:
        self._paths, self._images, self._record = paths, images, record

    # ------------------------------------------------------------ the four ways

    def out(self, source: str, destination: str, *, follow: bool, keep_owner: bool) -> int:
        """From the container's path `source` to the host's `destination`. Files belong to who asks, unless
        `keep_owner`. Returns bytes of files."""
        owner = None if keep_owner else (os.geteuid(), os.getegid())
        with self._entering() as enter:
            return self._between(enter, host, source, destination, follow, owner)

    def into(self, source: str, destination: str, *, follow: bool, owner: tuple[int, int] | None) -> int:
        """From the host's `source` to the container's `destination`. The numbers of owners stay, unless one
        is given."""
        with self._entering() as enter:
            return self._between(host, enter, source, destination, follow, owner)

    def archive(self, source: str, out: int, *, follow: bool) -> int:
        """The container's `source` as a tar on the descriptor `out`."""
        with self._entering() as enter, self._worker(enter, os.dup(out)) as worker, self._told():
            found = _source(worker, source, follow)
            name = _base(found.path if follow and not rules.only_content(source) else source)
            worker.begin("pack", path=_packed(source, found), follow=_follows(source, follow), name=name)
            return worker.end()

    def extract(self, archive: int, destination: str, *, owner: tuple[int, int] | None) -> int:
        """The tar on the descriptor `archive` into the container's directory `destination`."""
        with self._entering() as enter, self._worker(enter, os.dup(archive)) as worker, self._told():
            there = worker.look(destination, follow=True)
            if not there.exists or not there.directory:
                raise rules.Refused(f"destination {destination} must be a directory")
            worker.begin("unpack", directory=there.path, owner=owner)
            return worker.end()

    # ------------------------------------------------------------ how

    def _between(
        self,
        from_: Enter,
        to: Enter,
        source: str,
        destination: str,
        follow: bool,
        owner: tuple[int, int] | None,
    ) -> int:
        reading, writing = os.pipe()
        with self._worker(from_, writing) as giver, self._worker(to, reading) as taker, self._told():
            found = _source(giver, source, follow)
            there = taker.look(destination, follow=True)
            landing = rules.landing(source, found, destination, there)
            if not there.exists and not taker.look(landing.directory, follow=True).directory:
                raise rules.Refused(f"directory {landing.directory} does not exist")
            taker.begin("unpack", directory=landing.directory, owner=owner)
            giver.begin(
                "pack", path=_packed(source, found), follow=_follows(source, follow), name=landing.name
            )
            return _end(giver, taker)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (Failed, rules.Refused) as error:
            raise Fault("copy-refused", "copy", f"with container {self._record.name}", str(error)) from error

    def _worker(self, enter: Enter, data: int) -> Worker:
        with faults("copy", f"with container {self._record.name}"):
            return Worker(enter, data)

    @contextmanager
    def _entering(self) -> Iterator[Enter]:
        """One that does not run is not started meanwhile: what it wrote must not be mounted twice."""
        record, paths = self._record, self._paths
        state = attend.live_state(paths, record)
        if state is not None and state.pid:
            bare = container.kernels_own(attend.read_config(paths, record).get("mounts") or [])
            yield container.running(state.pid, state.pid_start, bare)
            return
        with Holds(paths).hold(f"{COPYING}{record.id}", "being copied"):
            yield container.still(self._still())

    def _still(self) -> container.Still:
        record, paths = self._record, self._paths
        home, rootfs = paths.container(record.id), paths.rootfs(record.id)
        users = paths.live(record.id) / USERNS
        mounted = mounts.is_mounted(rootfs)
        layers = tuple(reversed(self._images.ensure_layers(record.image_id)))
        if not mounted:
            with faults("mount root filesystem of", record.name):
                (home / "work").mkdir(mode=0o700, parents=True, exist_ok=True)
                overlay.make_upper(home / "upper", layers[0])
        request = record.decode()
        return container.Still(
            upper=home / "upper",
            work=home / "work",
            layers=layers,
            rootfs=rootfs,
            mounted=mounted,
            place=paths.run,
            bound=tuple(self._bound()),
            read_only=request.read_only,
            userns=users if mounted and mounts.is_mounted(users) else None,
        )

    def _bound(self) -> Iterator[container.Bound]:
        """Volumes and binds, those above others first. What a container never had (an anonymous volume
        before the first start) is not there."""
        record, connection = self._record, self._images.catalog.database.read()
        image = self._images.get(record.image_id)
        anonymous = read_anonymous(connection, record.name)
        asked = all_mounts(record.decode(), declared_by(image.config) if image is not None else ())
        for mount in sorted(asked, key=lambda mount: mount.target.count("/")):
            if mount.kind == "bind":
                yield container.Bound(mount.source, mount.target, mount.read_only)
            elif mount.kind == "volume":
                name = mount.source or anonymous.get(mount.target, "")
                volume = read_volume(connection, self._paths.volumes, name) if name else None
                if volume is not None:
                    yield container.Bound(str(volume.path), mount.target, mount.read_only, mount.subpath)


def _end(giver: Worker, taker: Worker) -> int:
    """Bytes of files. Where both failed, one did because of the other."""
    try:
        taken = taker.end()
    except Failed:
        try:
            giver.end()
        except Failed as own:
            if own.code != errno.EPIPE:
                raise
        raise
    giver.end()
    return taken


def _follows(source: str, follow: bool) -> bool:
    return follow or rules.is_followed(source)


def _source(worker: Worker, source: str, follow: bool) -> rules.Found:
    found = worker.look(source, follow=_follows(source, follow))
    if not found.exists:
        raise rules.Refused(f"there is no {source}")
    if not found.directory and (rules.is_followed(source) or source.endswith("/")):
        raise rules.Refused(f"{source} is not a directory")
    return found


def _packed(source: str, found: rules.Found) -> str:
    """`..` at the end is for the kernel to resolve."""
    return source if source.endswith("..") else found.path


def _base(path: str) -> str:
    return "." if rules.only_content(path) else posixpath.basename(path.rstrip("/")) or "."
