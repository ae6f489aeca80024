"""Effects: the life of one container, one method an action. No method decides whether it should happen.

Every method is an ensure: it looks at what is there and does what is missing, so that it may be repeated
after a crash at any line. The order of writes is what makes that true: `wanted` is recorded before the world
is changed towards it, a record is deleted after the things it names are gone from the kernel.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from runtime import attend, events, restarts, supervising
from runtime.backups.holds import COPYING, Holds
from runtime.database import Database
from runtime.faults import Fault, faults
from runtime.images.emulation import check_runs
from runtime.images.manifests import host_platform
from runtime.images.store import ImageStore
from runtime.inside import same_process
from runtime.net.fabric import Fabric
from runtime.net.ports import published_ports
from runtime.net.records import Lease, read_leases
from runtime.observations import HandStop, Phase, retired
from runtime.paths import Paths, delete_tree
from runtime.prepare import Preparation, anonymous_of, cgroup_path
from runtime.records import (
    RUNNING,
    STOPPED,
    ContainerRecord,
    delete_container,
    insert_container,
    read_container,
    read_containers,
    rename_container,
    set_wanted,
    update_request,
)
from runtime.restarts import Restarts
from runtime.shim import client, forking, supervise
from runtime.spares import Spares
from runtime.stops import forget_stop, write_stop
from runtime.turns import Turns
from runtime.volumes import Volumes
from runtime.volumes.records import read_anonymous
from runtime.wishes import Attachment, ContainerRequest

Result = TypeVar("Result")


class Containers:
    """Thread-safe. Two actions on one container wait for each other; different containers run side by
    side. Each takes a full name, or an id: that is the same container when somebody renames it meanwhile.
    """

    def __init__(
        self,
        paths: Paths,
        database: Database,
        images: ImageStore,
        fabric: Fabric,
        preparation: Preparation,
        volumes: Volumes,
        zygote: forking.Zygote,
        *,
        stays: bool = False,
    ) -> None:
        """`stays`: this process, which makes places for containers to come."""
        self._paths = paths
        self._database = database
        self._images = images
        self._fabric = fabric
        self._preparation = preparation
        self._volumes = volumes
        self._zygote = zygote
        self._holds = Holds(paths)
        self._spares = Spares(paths, preparation, zygote, self.busy, stays=stays)
        self._turns = Turns()
        self._fresh: set[str] = set()  # ids that were made here and never started: nothing is left of them

    def close(self) -> None:
        """What waits for containers that there are not goes."""
        self._spares.close()

    # ------------------------------------------------------------ create, start

    def create(self, request: ContainerRequest, *, now: float, image_id: str = "") -> str:
        """The record with its leases of addresses and ports, in one transaction. Nothing on disk yet:
        should a power cut come before a start makes it durable, it was not created. `image_id` is that of one
        that is not to be looked up by its name."""
        with self._alone(request.name):
            image = self._images.get(image_id or request.image_id or str(request.image))
            if image is None:
                raise Fault(
                    "image-not-found",
                    "create container",
                    request.name,
                    f"image {request.image.familiar} is not in the store",
                    "pull or import it",
                )
            check_runs(image.config, host_platform(), request.name)
            self._zygote.warm()  # a start follows
            with self._spares.id() as id, self._database.write(durable=False) as connection:
                record = ContainerRecord.of(id, request, image.id, now)
                if read_container(connection, request.name) is not None:
                    raise Fault("container-exists", "create container", request.name, "the name is taken")
                self._images.use(image.id, request.name)
                insert_container(connection, record)
                self._images.mount_into(connection, id, request.name, _mounted(request))
                self._volumes.adopt(connection, request.name, request.source, anonymous_of(request, image))
                ports = published_ports(request, image.config)
                service = request.service or request.name
                self._fabric.reserve(connection, id, request.name, request.networks, ports, service)
            self._fresh.add(id)
            events.tell_container(self._paths.root, "create", record)
            return id

    def start(self, name: str) -> None:
        """From any phase to running; nothing to do where the program runs already."""
        with self._alone(name):
            self._begin(self.record(name, "start container"))

    def restart(self, name: str, *, signal: str = "", timeout: float | None = None) -> None:
        """`stop` and `start` with nobody between: who waits for its end, to remove it, finds it running."""
        with self._alone(name):
            record = self.record(name, "restart container")
            self._want(record.id, STOPPED)
            self._halt(record, signal=signal, timeout=timeout)
            self._begin(self.record(name, "restart container"))

    def _begin(self, record: ContainerRecord) -> None:
        state = client.read_state(self._paths.live(record.id))
        if state is not None and client.is_alive(state):
            with _started(record):
                if state.phase == Phase.BACKOFF:
                    client.start_now(self._paths.live(record.id))
                if state.phase not in (*supervise.FINAL, Phase.LOST):
                    return
                client.wait_gone(state)  # it has ended just now
        request = record.decode()
        volumes = {mount.source for mount in request.mounts if mount.kind == "volume" and mount.source}
        volumes.update(read_anonymous(self._database.read(), record.name).values())
        volumes.add(f"{COPYING}{record.id}")
        with self._holds.starting(volumes, record.name):
            self._start(record, request)
        self._tell_networks("connect", record)

    def _start(self, record: ContainerRecord, request: ContainerRequest) -> None:
        fresh = record.id in self._fresh
        self._fresh.discard(record.id)
        home, live = self._paths.container(record.id), self._paths.live(record.id)
        goes_on = record.wanted == RUNNING and not (home / "exit.json").exists()
        before = Restarts() if fresh else restarts.read(live, home, goes_on=goes_on)
        if not fresh:
            self._spares.drop(record.id)
            self._preparation.clear(record.id)
        self._fabric.check_ports(record.id)
        image = self._preparation.image(record)
        idle, early = supervising.will_be_idle(request, image), self._preparation.early(record.id, request)
        spare = self._spares.claim(record.id, request, early, idle=idle)
        try:
            if spare is None:
                self._preparation.directories(record.id, record.name)
            with (
                self._preparation.begun(record, request) as ground,
                spare.birth if spare is not None else self._fork(record, early, idle=idle) as birth,
            ):
                if spare is None:
                    ground.when_laid(birth.ground)
                rules = spare.rules if spare is not None else None
                self._preparation.cgroup(record.id, request, ground, fresh=fresh, rules=rules)
                self._want(record.id, RUNNING, durable=not request.auto_remove)  # which outlives no power cut
                rest = self._preparation.make(record, request, image, ground, restarts=before)
                birth.go()
                rest()
                self._fabric.activate(record.id)
                self._fabric.publish(only=record.id)
                with _started(record):
                    birth.start()
                if self._fabric.is_shared(record.id):  # others have had its connections until now
                    self._fabric.publish(only=record.id)
        except BaseException:
            if spare is not None:
                spare.birth.close()
            self._undo(record)
            raise
        self._spares.like(request, idle=idle)

    def _fork(self, record: ContainerRecord, early: Mapping[str, Any] | None, *, idle: bool) -> forking.Birth:
        """The processes of its shim, which wait: they are made while the bundle is."""
        home, live = self._paths.container(record.id), self._paths.live(record.id)
        with _started(record):
            return self._zygote.fork(home, live, idle=idle, cgroup=cgroup_path(record.id), early=early)

    def _undo(self, record: ContainerRecord) -> None:
        """After a failed start: nothing of it stays in the kernel, and the record says what it said before.

        What fails here is left to the next start, which clears first.
        """
        try:
            client.stop(self._paths.live(record.id), timeout=0.0)
            self._fabric.deactivate(record.id)
            self._fabric.publish(only=record.id)
            self._preparation.clear(record.id)
            self._want(record.id, record.wanted)
        except (Fault, OSError, client.ShimError):
            pass

    # ------------------------------------------------------------ stop, remove

    def stop(self, name: str, *, signal: str = "", timeout: float | None = None) -> None:
        """Unpublish, stop signal, grace period (the container's own unless given), SIGKILL; then its mounts,
        links and cgroup go."""
        with self._alone(name):
            record = self.record(name, "stop container")
            self._want(record.id, STOPPED)
            self._halt(record, signal=signal, timeout=timeout)

    def stop_by_hand(self, name: str, stop: HandStop) -> None:
        """It stays stopped, also what replaces it, until `hand_back`. Repeatable: the newest one holds."""
        with self._database.write() as connection:
            write_stop(connection, name, stop)

    def hand_back(self, name: str) -> None:
        """Its source decides again whether it runs. Repeatable."""
        with self._database.write() as connection:
            forget_stop(connection, name)

    def kill(self, name: str, signal: str) -> None:
        """A signal to its first process; its restart policy takes that like any other end. Waits for no other
        action on it. Fault container-not-running."""
        record = self.record(name, "kill container")
        live = self._paths.live(record.id)
        state = client.read_state(live)
        if state is None or not client.is_alive(state) or not state.pid:
            raise Fault("container-not-running", "kill container", record.name, "it is not running")
        try:
            client.kill(live, signal)
        except client.ShimError as error:
            raise Fault("shim-unreachable", "kill container", record.name, error.message) from error

    def _halt(
        self, record: ContainerRecord, *, signal: str = "", timeout: float | None = None, home: bool = False
    ) -> None:
        """`home`: what it wrote goes, too."""
        id, live = record.id, self._paths.live(record.id)
        self._spares.drop(id)
        state = client.read_state(live)
        alive = state is not None and client.is_alive(state)
        up = alive and state is not None and state.phase not in supervise.FINAL
        self._tell_networks("disconnect", record)
        others = self._fabric.is_shared(id)
        if up:
            self._fabric.leave_names(id)
        self._fabric.deactivate(id)
        self._fabric.publish(only=id)
        if others:  # new connections go to them; those that it has may end by themselves
            with faults("stop container", record.name):
                self._fabric.drain(id, self._paths.netns(id), record.decode().drain)
        if alive:
            try:
                client.stop(live, signal=signal, timeout=timeout, clears=True)
            except client.ShimError as error:
                raise Fault("shim-unreachable", "stop container", record.name, error.message) from error
        self._preparation.clear(id, home=home)

    def _tell_networks(self, action: str, record: ContainerRecord) -> None:
        """Of one that starts, or was up until now."""
        for lease in read_leases(self._database.read(), container=record.id):
            if lease.active:
                self._tell_network(action, record, lease.network)

    def _tell_network(self, action: str, record: ContainerRecord, network: str) -> None:
        events.tell(self._paths.root, "network", action, network, network, container=record.id)

    def retire(self, name: str) -> None:
        """The record has another name from now on; the container notices nothing."""
        old = retired(name)
        with self._alone(name), self._alone(old), self._database.write() as connection:
            record = read_container(connection, name)
            taken = read_container(connection, old)
            if taken is not None:
                if record is None:
                    return
                raise Fault("container-exists", "retire container", name, f"there is {old} already")
            if record is None:
                raise Fault("container-not-found", "retire container", name, "there is no such container")
            rename_container(connection, record.id, old)
            self._fabric.rename(connection, record.id, old)
            events.tell_container(self._paths.root, "rename", record._replace(name=old), oldName=name)

    def rename(self, name: str, new: str) -> None:
        """The same container has another name from now on; it goes on, and its peers find it by that. Fault
        container-exists, container-not-found."""
        which, name = name, self._called(name)
        if name == new:
            raise Fault("request-invalid", "rename container", name, "it is called that already")
        first, second = sorted((name, new))
        with self._alone(first), self._alone(second):
            with self._database.write() as connection:
                record = read_container(connection, which)
                if record is None or record.name != name:  # somebody was quicker
                    raise Fault("container-not-found", "rename container", name, "there is no such container")
                if read_container(connection, new) is not None:
                    raise Fault("container-exists", "rename container", name, f"the name {new} is taken")
                rename_container(connection, record.id, new)
                self._volumes.rename_owner(connection, name, new)
                self._fabric.rename(connection, record.id, new)
                before = record.decode()
                request = replace(before, name=new, service=new if before.service == name else before.service)
                update_request(connection, record.id, request)
                for other in read_containers(connection):
                    self._follow_rename(connection, other, name, new)
            self._fabric.publish(only=record.id)
            self._fabric.tell(record.id, request)
            events.tell_container(self._paths.root, "rename", record._replace(name=new), oldName=name)

    def _follow_rename(
        self, connection: sqlite3.Connection, record: ContainerRecord, name: str, new: str
    ) -> None:
        """Whoever has the network, the processes or the memory of the one that was renamed."""
        request = record.decode()
        modes = {key: getattr(request, key) for key in ("network_mode", "pid_mode", "ipc_mode", "uts_mode")}
        changed: dict[str, Any] = {
            key: f"container:{new}" for key, mode in modes.items() if mode == f"container:{name}"
        }
        if changed:
            update_request(connection, record.id, replace(request, **changed))

    def remove(
        self,
        name: str,
        *,
        replaced: bool = False,
        volumes: bool = True,
        kill: bool = False,
        ended: bool = False,
    ) -> None:
        """Everything of the container goes; repeating it for a name that is gone is harmless.

        `kill`: it is given no time to end. `replaced`: one of its name follows and takes its anonymous
        volumes over. Else they go with it if `volumes` says so, or are nobody's from now on. `ended`: only
        where it is not up; else Fault container-running.
        """
        with self._alone(name):
            record = read_container(self._database.read(), name)
            if record is None:
                return
            if ended and attend.is_up(self._paths, record):
                hint = f"stop it with `stead stop {record.name}`, or remove it with -f"
                raise Fault("container-running", "remove container", record.name, "it is running", hint)
            self._fresh.discard(record.id)
            self._despite_full_disk(record, lambda: self._want(record.id, STOPPED, durable=False))
            self._halt(record, signal="SIGKILL" if kill else "", timeout=0.0 if kill else None, home=True)
            left = self._despite_full_disk(record, lambda: self._forget(record, replaced))
            self._holds.forget(f"{COPYING}{record.id}")
            events.tell_container(self._paths.root, "destroy", record)
            for volume in left if volumes else ():
                self._volumes.remove(volume)

    def _forget(self, record: ContainerRecord, replaced: bool) -> Sequence[str]:
        """The records of it. Returns its anonymous volumes, which are nobody's now."""
        durable = not record.decode().auto_remove  # after a power cut the agent removes what is left of that
        with self._database.write(durable=durable) as connection:
            self._fabric.release(connection, record.id)
            delete_container(connection, record.id)
            self._preparation.release(connection, record.id)
            connection.execute("DELETE FROM mounted_images WHERE container = ?", (record.id,))
            left = [] if replaced else self._volumes.disown(connection, record.name)
            if not replaced:
                forget_stop(connection, record.name)
            self._images.catalog.touch(record.image_id)
        return left

    def _despite_full_disk(self, record: ContainerRecord, action: Callable[[], Result]) -> Result:
        """Perhaps it is this container that fills the disk: then it must go all the same."""
        try:
            return action()
        except Fault as fault:
            if fault.code != "disk-full":
                raise
            self._empty(record)
            return action()

    def _empty(self, record: ContainerRecord) -> None:
        """Its program ends, and what it wrote goes, before anything of that is recorded."""
        id = record.id
        try:
            client.stop(self._paths.live(id))
        except client.ShimError as error:
            raise Fault("shim-unreachable", "stop container", record.name, error.message) from error
        with faults("remove container", record.name):
            self._preparation.let_go(id)
            for name in ("upper", "log"):
                delete_tree(self._paths.container(id) / name)

    # ------------------------------------------------------------ adjust, repair

    def update(self, name: str, change: Callable[[ContainerRequest], ContainerRequest]) -> None:
        """As `adjust` for what `change` makes of its request, which nobody else changes meanwhile; when the
        kernel does not take the limits, nothing has changed. Faults limit-unsupported, request-invalid when
        it uses more memory now than it is to have, and those of `change`."""
        with self._alone(name):
            record = self.record(name, "update container")
            before = record.decode()
            request = change(before)
            state = client.read_state(self._paths.live(record.id))
            if before.limits != request.limits and state is not None and client.is_alive(state):
                self._preparation.try_limits(record.id, request, before)
            self._adjust(record, request)

    def adjust(self, request: ContainerRequest) -> None:
        """Limits, supervision, published ports, networks and labels change; the process goes on."""
        with self._alone(request.name):
            self._adjust(self.record(request.name, "adjust container"), request)

    def _adjust(self, record: ContainerRecord, request: ContainerRequest) -> None:
        before = record.decode()
        with self._database.write() as connection:
            update_request(connection, record.id, request)
            config = self._preparation.image(record).config
            ports = published_ports(request, config)
            if frozenset(published_ports(before, config)) != frozenset(ports):
                self._fabric.set_ports(connection, record.id, request.name, ports)
            gone = self._settle(connection, record, before, request)
        self._follow(record, before, request, gone)
        self._fabric.publish()
        self._fabric.tell(record.id, request)
        live = self._paths.live(record.id)
        state = client.read_state(live)
        if state is None or not client.is_alive(state):
            return
        if before.limits != request.limits:
            self._preparation.limits(record.id, request)
        if before.oom_score_adj != request.oom_score_adj:
            self._preparation.oom_score(record.id, request)
        image, counts = self._preparation.image(record), Restarts(state.restart_reasons)
        cgroup = cgroup_path(record.id)
        document = supervising.document(self._paths, record, request, image, counts, cgroup=cgroup)
        try:
            client.adjust(live, document)
        except client.ShimError as error:
            raise Fault("shim-unreachable", "adjust container", request.name, error.message) from error

    def _settle(
        self,
        connection: sqlite3.Connection,
        record: ContainerRecord,
        before: ContainerRequest,
        request: ContainerRequest,
    ) -> list[Lease]:
        """The leases as `request` has them. Returns those whose links go."""
        if before.networks == request.networks:
            return []
        return self._fabric.settle(connection, record.id, record.name, before.networks, request.networks)

    def _follow(
        self, record: ContainerRecord, before: ContainerRequest, request: ContainerRequest, gone: list[Lease]
    ) -> None:
        """The kernel as the leases are now, where the container is up."""
        netns = self._paths.netns(record.id)
        if before.networks == request.networks or not netns.exists():
            return
        self._fabric.drop_links(gone, netns)
        self._fabric.attach(record.id, netns)
        self._fabric.write_files(record.id, request, self._paths.container(record.id))

    def connect(self, name: str, attachment: Attachment) -> None:
        """Join a network that its request does not name, until the container is removed. Repeatable.

        Faults container-not-found, network-not-found, request-invalid, address-taken, address-exhausted.
        """
        with self._alone(name):
            record = self.record(name, "connect container")
            request = record.decode()
            if request.network_mode != "bridge":
                cause = f"its network_mode is {request.network_mode}"
                raise Fault("request-invalid", "connect container", name, cause)
            with self._database.write() as connection:
                self.record(name, "connect container")  # in the transaction: it is there when it ends
                self._fabric.reserve_one(connection, record.id, name, attachment)
            self._after_hand(record, request)
            self._tell_network("connect", record, attachment.network)

    def disconnect(self, name: str, network: str) -> None:
        """Leave a network. Repeatable. Fault container-not-found."""
        with self._alone(name):
            record = self.record(name, "disconnect container")
            with self._database.write() as connection:
                gone = self._fabric.leave(connection, record.id, network)
            self._fabric.drop_links(gone, self._paths.netns(record.id))
            self._after_hand(record, record.decode())
            if gone:
                self._tell_network("disconnect", record, network)

    def _after_hand(self, record: ContainerRecord, request: ContainerRequest) -> None:
        netns = self._paths.netns(record.id)
        if netns.exists():
            self._fabric.attach(record.id, netns)
            self._fabric.write_files(record.id, request, self._paths.container(record.id))
        self._fabric.publish()
        self._fabric.tell(record.id, request)

    def repair(self, name: str) -> None:
        """Mend what drifted around a running container; its process is not touched."""
        with self._alone(name):
            record = self.record(name, "repair container")
            state = client.read_state(self._paths.live(record.id))
            if state is None or not same_process(state.pid, state.pid_start):
                raise Fault(
                    "container-not-running", "repair container", name, "its process is gone", "start it"
                )
            if record.wanted != RUNNING:
                self._want(record.id, RUNNING)
            request = record.decode()
            with self._database.write() as connection:  # of a network that it was taken from by hand
                self._fabric.rejoin(connection, record.id, name, request.networks)
            self._preparation.mend(record, request, state.pid)
            self._fabric.activate(record.id)
            self._fabric.publish(only=record.id)

    # ------------------------------------------------------------ records

    def record(self, name: str, operation: str) -> ContainerRecord:
        """Fault container-not-found."""
        record = read_container(self._database.read(), name)
        if record is None:
            raise Fault("container-not-found", operation, name, "there is no container of this name")
        return record

    def _want(self, id: str, wanted: str, *, durable: bool = True) -> None:
        with self._database.write(durable=durable) as connection:
            set_wanted(connection, id, wanted)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Nobody else acts on it meanwhile. Of two names the smaller one is asked for first. With an id it is
        that container, whatever it is called by the time that its turn comes."""
        while True:
            called = self._called(name)
            with self._turns.alone(called):
                if self._called(name) == called:
                    yield
                    return

    def _called(self, name: str) -> str:
        record = read_container(self._database.read(), name)
        return name if record is None else record.name

    def busy(self, since: float) -> set[str]:
        """Names on which this process has acted at any time since then, by time.monotonic(): what was seen of
        them meanwhile may be half of it."""
        return self._turns.busy(since)


@contextmanager
def _started(record: ContainerRecord) -> Iterator[None]:
    """Faults instead of a shim's errors."""
    try:
        yield
    except client.ShimError as error:
        cause = f"{error.message} (exit code {error.exit_code})"
        code = "container-not-running" if supervise.OWNER_ENDED in error.message else "start-failed"
        raise Fault(code, "start container", record.name, cause) from error


def _mounted(request: ContainerRequest) -> list[str]:
    """References of the images that it mounts."""
    return sorted({mount.source for mount in request.mounts if mount.kind == "image"})
