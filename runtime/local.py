"""Effects: LocalRuntime, the interface composed from the rooms of this package. It decides nothing."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from runtime import spares
from runtime.backups.backups import Backups
from runtime.backups.holds import Holds
from runtime.backups.request import BackupRequest, BackupResult, DrillResult
from runtime.build.builder import BUILD_SCHEMA, Builder
from runtime.build.executor import Cancelled
from runtime.build.failure import StepFailed
from runtime.build.request import BuildCallback, BuildInputs, BuildRequest, BuildResult, quiet
from runtime.containers import Containers
from runtime.database import Database, from_sqlite
from runtime.faults import Fault, faults
from runtime.freezer import Freezer
from runtime.ids import IDS_SCHEMA, SUBGID, SUBUID, Ids
from runtime.images.garbage import Limits, Removed
from runtime.images.store import IMAGES_SCHEMA, ImageStore, RegistrySettings
from runtime.interface import ProgressCallback, Transfer
from runtime.linux import cgroups
from runtime.net.dns.service import NameService
from runtime.net.fabric import NET_SCHEMA, Fabric
from runtime.observations import ImageSize, Observed, Sample
from runtime.observe import Observer
from runtime.paths import Paths, delete_tree, remove_temporaries, write_atomically
from runtime.prepare import Preparation
from runtime.records import read_container, read_containers
from runtime.shim import client, forking
from runtime.volumes import VOLUMES_SCHEMA, Volumes
from runtime.wishes import ContainerRequest, NetworkRequest, VolumeRequest
from specs.values import ImageRef

SCHEMAS = (IMAGES_SCHEMA, BUILD_SCHEMA, NET_SCHEMA, VOLUMES_SCHEMA, IDS_SCHEMA)
DEFAULT_POOL = "10.88.0.0/16"
TAIL = 10  # last lines of a build's step that its Fault has


class LocalRuntime:
    """The machine this process runs on. Opening makes the directories and the database, removes what somebody
    was killed while writing below `run`, and changes nothing else.

    `registries` are settings by host, `docker_config` is the config.json that has further credentials,
    `pool` and `pool6` are where networks without a subnet of their own are cut from. The caller holds
    the root's lock whenever it changes anything. `ids` is whose ranges, in the files `subids`, containers
    with ids of their own are given.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        registries: Mapping[str, RegistrySettings] | None = None,
        docker_config: Path | None = None,
        pool: str = DEFAULT_POOL,
        pool6: str = "",
        ids: str = "",
        subids: tuple[Path, Path] = (SUBUID, SUBGID),
        stays: bool = False,
        shortcut: bool = False,
    ) -> None:
        """`stays`: this process does, and makes places for containers to come (runtime/spares.py);
        `shortcut`: it makes that (net/shortcut.py)."""
        with faults("open state in", str(paths.root)):
            paths.make()
            remove_temporaries(paths.run)
            _claim(paths)
        self.paths = paths
        self.database = Database(paths.database, SCHEMAS)
        self.images = ImageStore(
            paths, self.database, registries=registries or {}, docker_config=docker_config
        )
        self.fabric = Fabric(
            paths, self.database, pool=pool, pool6=pool6, service=NameService(paths), shortcut=shortcut
        )
        self.volumes = Volumes(paths, self.database, time.time)
        self.builder = Builder(paths, self.database, lambda: self.images, lambda: self.fabric)
        self.ids = Ids(self.database, ids, *subids)
        self._cgroups = cgroups.detect()
        self._zygote = forking.Zygote(paths.run)
        self._preparation = Preparation(
            paths,
            self.images,
            self.fabric,
            self.volumes,
            self._cgroups,
            lambda name: read_container(self.database.read(), name),
            self.ids,
        )
        self.containers = Containers(
            paths,
            self.database,
            self.images,
            self.fabric,
            self._preparation,
            self.volumes,
            self._zygote,
            stays=stays,
        )
        self.freezer = Freezer(paths, self.database, self._cgroups)
        self.backups = Backups(
            paths, self.database, self.volumes, self._cgroups, Holds(paths), self.containers.start
        )
        #: of those under way: (set when it is to end, its first name)
        self._builds: list[tuple[threading.Event, tuple[ImageRef, ...]]] = []
        self._builds_lock = threading.Lock()
        self._interrupted = False
        self._observer = Observer(
            paths,
            self.database,
            self.images,
            self.fabric,
            self.volumes,
            self._cgroups,
            self.containers.busy,
        )

    def close(self) -> None:
        """Containers live on; only what belongs to this process ends."""
        self._observer.close()
        self.containers.close()
        self._zygote.close()
        self._preparation.close()
        self.fabric.close()
        self.images.close()
        self.database.close()

    def __enter__(self) -> LocalRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ look

    def observe(self) -> Observed:
        try:
            return self._observer.observe()
        except sqlite3.Error as error:
            raise from_sqlite(error, "read", str(self.paths.database)) from error

    def observe_networks(self, last: Observed) -> Observed:
        try:
            return self._observer.observe_networks(last)
        except sqlite3.Error as error:
            raise from_sqlite(error, "read", str(self.paths.database)) from error

    def watch_networks(self, heard: Callable[[], None]) -> Callable[[], None]:
        try:
            return self.fabric.watch(heard)
        except OSError:  # then the periodic look finds what changed
            return lambda: None

    def sample(self) -> tuple[Sample, ...]:
        return self._observer.sample()

    def interrupt(self) -> None:
        self.images.registries.closing.set()
        self.backups.closing.set()
        with self._builds_lock:
            self._interrupted = True
            for cancelled, _ in self._builds:
                cancelled.set()

    def watch_transfers(self, callback: Callable[[Transfer], None]) -> None:
        self.images.registries.on_transfer = callback

    # ------------------------------------------------------------ images

    def pull_image(
        self,
        ref: ImageRef,
        *,
        platform: str = "",
        digest: str = "",
        progress: ProgressCallback | None = None,
    ) -> str:
        if not digest or ref.digest:
            return self.images.pull(ref, platform=platform, progress=progress)
        with self.images.hold():
            id = self.images.pull(_at(ref, digest), platform=platform, progress=progress)
            return self.images.catalog.name(ref, id, digest)

    def look_up_image(self, ref: ImageRef) -> str:
        return self.images.registries.digest(ref)

    def measure_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> ImageSize:
        need = self.images.measure(_at(ref, digest) if digest else ref, platform=platform)
        return ImageSize(need.download, need.unpacked)

    def repair_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> str:
        """The blob of a layer whose directory is gone may still be there; else all is pulled again."""
        image = self.images.get(str(ref))
        try:
            if image is not None:
                self.images.ensure_layers(image.id)
                return image.id
        except Fault as fault:
            if fault.code != "layer-invalid":
                raise
        return self.pull_image(ref, platform=platform, digest=digest)

    def build_inputs(self, request: BuildRequest) -> BuildInputs:
        with faults("look at build", request.label):
            return self.builder.inputs(request)

    def build_image(self, request: BuildRequest, progress: BuildCallback = quiet) -> BuildResult:
        cancelled = threading.Event()
        build = (cancelled, request.names[:1])
        with self._builds_lock:
            self._builds.append(build)
            if self._interrupted:
                cancelled.set()
        try:
            with faults("build", request.label):
                return self.builder.build(request, progress, cancelled)
        except Cancelled as error:
            raise Fault("build-failed", "build", request.label, "it was cancelled") from error
        except StepFailed as failed:
            if not failed.tail:
                raise
            cause = "\n".join([failed.cause, *(f"    {line}" for line in failed.tail[-TAIL:])])
            raise Fault(failed.code, failed.operation, failed.subject, cause, failed.hint) from failed
        finally:
            with self._builds_lock:
                self._builds.remove(build)

    def cancel_build(self, ref: ImageRef) -> None:
        with self._builds_lock:
            for cancelled, names in self._builds:
                if ref in names:
                    cancelled.set()

    def collect_images(self, keep: Collection[str], limits: Limits) -> tuple[Removed, ...]:
        return self.images.collect(keep, time.time(), limits)

    def import_image(self, path: Path, name: ImageRef) -> str:
        return self.images.import_path(path, name)

    def remove_image(self, name: str) -> tuple[str, ...]:
        return self.images.remove(name)

    # ------------------------------------------------------------ networks, volumes

    def create_network(self, request: NetworkRequest) -> None:
        self.fabric.create_network(request)

    def repair_network(self, name: str) -> None:
        self.fabric.repair_network(name)

    def remove_network(self, name: str) -> None:
        self.fabric.remove_network(name)

    def create_volume(self, request: VolumeRequest) -> None:
        self.volumes.create(request)

    def remove_volume(self, name: str) -> None:
        self.volumes.remove(name)

    def orphan_volume(self, name: str) -> None:
        self.volumes.orphan(name)

    def backup_volume(self, request: BackupRequest) -> BackupResult:
        into = Path(request.into)
        with faults("make directory", request.into):
            into.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = time.time()
        made = self.backups.backup(
            request.volume, into, now=now, quiesce=request.quiesce, revision=request.revision
        )
        removed = self.backups.prune(into, request.volume, request.keep)
        summary = made.summary
        return BackupResult(
            str(made.path),
            now,
            made.seconds,
            made.bytes,
            summary.size,
            summary.entries,
            summary.changed,
            len(removed),
        )

    def drill_backup(self, volume: str, directory: str) -> DrillResult:
        begun = time.time()
        done = self.backups.drill(volume, Path(directory))
        return DrillResult(str(done.path), done.summary.at, begun, done.seconds, done.summary.entries)

    # ------------------------------------------------------------ containers

    def create_container(self, request: ContainerRequest) -> str:
        return self.containers.create(request, now=time.time())

    def start_container(self, name: str) -> None:
        self.containers.start(name)

    def pause_container(self, name: str) -> None:
        self.freezer.pause(name)

    def unpause_container(self, name: str) -> None:
        self.freezer.unpause(name)

    def stop_container(self, name: str) -> None:
        self.containers.stop(name)

    def adjust_container(self, request: ContainerRequest) -> None:
        self.containers.adjust(request)

    def repair_container(self, name: str) -> None:
        self.containers.repair(name)

    def retire_container(self, name: str) -> None:
        self.containers.retire(name)

    def remove_container(self, name: str, *, replaced: bool = False, volumes: bool = True) -> None:
        self.containers.remove(name, replaced=replaced, volumes=volumes)

    # ------------------------------------------------------------ the machine

    def repair_firewall(self) -> None:
        self.fabric.publish(force=True)

    def sweep(self) -> tuple[str, ...]:
        """Directories are listed before the records are read: a record is always made before its
        directory.
        """
        directories = self._observer.directories() - spares.waiting(self.paths)
        known = {record.id for record in read_containers(self.database.read())}
        removed = []
        for id in sorted(directories - known):
            try:
                client.stop(self.paths.live(id), timeout=0.0)
            except client.ShimError as error:
                raise Fault("shim-unreachable", "sweep container", id, error.message) from error
            self._preparation.clear(id)
            with faults("sweep container", id):
                delete_tree(self.paths.container(id))
            removed.append(f"container {id}")
        removed += self.volumes.sweep(known)
        removed += self.builder.sweep()
        removed += self.backups.sweep()
        self.images.sweep()
        self.fabric.sweep(known | self.builder.leases())
        return tuple(removed)


def _at(ref: ImageRef, digest: str) -> ImageRef:
    return ImageRef(ref.host, ref.repository, digest=digest)


def _claim(paths: Paths) -> None:
    """`run` belongs to one root: what another one's containers have there would be swept as leftovers.

    Fault locked, as long as containers of another root live there.
    """
    note, root = paths.run / "root", str(paths.root.resolve())
    try:
        owner = note.read_text()
    except FileNotFoundError:
        owner = ""
    if owner == root:
        return
    if owner and any((paths.run / "containers").iterdir()):
        cause = f"{paths.run} belongs to the containers of {owner}"
        raise Fault("locked", "open state in", root, cause, "give --run a directory of its own, too")
    write_atomically(note, root.encode(), durable=False)
