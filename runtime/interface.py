"""The one door: what the agent may ask of the runtime. `Runtime` is implemented by LocalRuntime and
FakeRuntime; what it takes stands in runtime.wishes, what it finds in runtime.observations.

Every call is synchronous, thread-safe, an "ensure" (repeating it is harmless), does one thing and raises
Fault when it cannot.
Names are full names (`project/name`), sizes are bytes, durations are seconds, times are seconds since the
epoch.
`source` marks who declared a thing; only things whose source matches are ever changed on that source's
behalf.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runtime.backups.request import BackupRequest, BackupResult, DrillResult
from runtime.build.request import BuildCallback, BuildInputs, BuildRequest, BuildResult, quiet
from runtime.images.garbage import Limits, Removed
from runtime.observations import ImageSize, Observed, Sample
from runtime.wishes import ContainerRequest, NetworkRequest, VolumeRequest
from specs.values import ImageRef


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is with one layer, in bytes of its archive. `layer` is that archive's digest.

    `what` is exists (nothing is to be done), wait, download, extract (both may go on at once) or ready. Of a
    build it is `build`, and `layer` a line of its output.
    """

    subject: str
    what: str
    done: int
    total: int  # 0: unknown
    layer: str = ""


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes of one blob that went over the network, and how long they took. `direction` is pull or push,
    `host` the registry or mirror that was talked to.
    """

    direction: str
    host: str
    bytes: int
    seconds: float


class Runtime(Protocol):
    """What the planner's actions become. One method an action; no method decides anything."""

    def observe(self) -> Observed: ...
    def observe_networks(self, last: Observed) -> Observed:
        """`last` with its networks, its firewall and what containers have of the network as they are now. A
        small part of the cost of `observe`."""
        ...

    def watch_networks(self, heard: Callable[[], None]) -> Callable[[], None]:
        """`heard` is called, in any thread, soon after somebody changed what `observe_networks` looks at, we
        ourselves included, from the next look on. Returns what ends it. Where the kernel has no such events,
        nothing is ever heard."""
        ...

    def sample(self) -> tuple[Sample, ...]: ...

    def interrupt(self) -> None:
        """Make pulls and builds that are under way fail soon, before the process ends: they may take long."""
        ...

    def watch_transfers(self, callback: Callable[[Transfer], None]) -> None:
        """`callback` is called, in any thread, after each blob from or to a registry."""
        ...

    def pull_image(
        self,
        ref: ImageRef,
        *,
        platform: str = "",
        digest: str = "",
        progress: ProgressCallback | None = None,
    ) -> str:
        """Bring `ref` into the store, unpacked. With `digest` that is what comes, and what is called `ref`.
        Returns the image id."""
        ...

    def look_up_image(self, ref: ImageRef) -> str:
        """The digest that `ref` stands for in its registry now: one HEAD."""
        ...

    def measure_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> ImageSize:
        """What a pull would need. Nothing is asked of a registry when the image is here already."""
        ...

    def repair_image(self, ref: ImageRef, *, platform: str = "", digest: str = "") -> str:
        """Bring back what of the image is missing: from its archives, else from its registry. Returns the
        image id."""
        ...

    def build_inputs(self, request: BuildRequest) -> BuildInputs:
        """What a build would be made from now: Dockerfile, what the ignore file lets through of the context,
        arguments, base images as they are in the store. Cheap enough for every look; brings no image."""
        ...

    def build_image(self, request: BuildRequest, progress: BuildCallback = quiet) -> BuildResult:
        """Build, and call the result by the request's names. `build-failed` with the step's place, exit code
        and last lines; `dockerfile-invalid` with every problem."""
        ...

    def cancel_build(self, ref: ImageRef) -> None:
        """A build whose first name is `ref`, and which is under way, fails soon."""
        ...

    def collect_images(self, keep: Collection[str], limits: Limits) -> tuple[Removed, ...]:
        """Remove images that nothing needs, as far as the limits say; those with the ids `keep` and those of
        containers stay. Nothing while something is brought in or built."""
        ...

    def import_image(self, path: Path, name: ImageRef) -> str:
        """A root filesystem, OCI layout or docker-archive (directory or tar) becomes `name`. Returns
        the image id.
        """
        ...

    def remove_image(self, name: str) -> tuple[str, ...]:
        """Returns the lines to print: `Untagged: ...`, `Deleted: ...`."""
        ...

    def create_network(self, request: NetworkRequest) -> None: ...
    def repair_network(self, name: str) -> None: ...
    def remove_network(self, name: str) -> None: ...

    def create_volume(self, request: VolumeRequest) -> None: ...
    def remove_volume(self, name: str) -> None: ...

    def orphan_volume(self, name: str) -> None:
        """Write down that nothing declares it, since now; not where that is written down already."""
        ...

    def backup_volume(self, request: BackupRequest) -> BackupResult:
        """A backup of the volume, and older ones that are not to be kept go. May take long."""
        ...

    def drill_backup(self, volume: str, directory: str) -> DrillResult:
        """Restore the newest backup aside, and compare it with what it says. `backup-differs`,
        `backup-invalid`, `digest-mismatch`. May take long."""
        ...

    def create_container(self, request: ContainerRequest) -> str:
        """Record, addresses, bundle; nothing runs yet. Returns the id. `container-exists` when the
        name is taken.
        """
        ...

    def start_container(self, name: str) -> None:
        """cgroup, network namespace, links, root filesystem, ports, shim. Returns when the program is
        exec'ed; `start-failed` (with the exit code 125, 126 or 127 in the cause) when it could not be."""
        ...

    def stop_container(self, name: str) -> None:
        """Stop signal, grace period, SIGKILL; the container stays stopped until started."""
        ...

    def adjust_container(self, request: ContainerRequest) -> None:
        """Change in place what `adjustable` covers, without touching the process."""
        ...

    def repair_container(self, name: str) -> None:
        """Mend every defect of the container that needs no new process."""
        ...

    def retire_container(self, name: str) -> None:
        """Give its name free for the one that is to replace it; it runs on, and from now on it is called
        `retired(name)`. Repeatable. Fault container-exists when one is called that already.
        """
        ...

    def remove_container(self, name: str, *, replaced: bool = False, volumes: bool = True) -> None:
        """Stop if need be; unpublish, unmount, release addresses, delete the writable layer and the
        record. Its anonymous volumes are left to the next container of its name when it is `replaced`; else
        they go with it, or without `volumes` are nobody's from now on.
        """
        ...

    def repair_firewall(self) -> None:
        """Our nftables table and the sysctls of forwarding, in one transaction, as the records want them."""
        ...

    def sweep(self) -> tuple[str, ...]:
        """Remove what a crash left half-made. Returns what was removed."""
        ...
