"""Effects in memory: what the world does to the machine of a FakeRuntime: kill, flush, unplug."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from runtime.observations import Defect, Health, Phase
from specs.values import ImageRef

UP = (Phase.STARTING, Phase.RUNNING, Phase.BACKOFF, Phase.STOPPING)


class FakeWorld:
    """The other half of FakeRuntime, which has these."""

    _lock: threading.RLock
    _images: dict[str, str]
    _ids: set[str]
    _broken: set[str]
    _networks: dict[str, Any]
    _containers: dict[str, Any]
    _firewall: tuple[Defect, ...]
    _leftovers: set[str]
    _starts: int
    _heard: Callable[[], None]
    _name: Callable[[ImageRef, str, str], str]

    def put_image(self, reference: str, id: str) -> None:
        with self._lock:
            self._name(ImageRef.parse(reference), id, id)

    def rot(self, reference: str) -> None:
        """A layer of the image is gone, for containers that run from it, too."""
        with self._lock:
            id = self._images[str(ImageRef.parse(reference))]
            self._broken.add(id)

    def image_ids(self) -> set[str]:
        with self._lock:
            return set(self._ids)

    def lose(self, name: str) -> None:
        """Somebody killed the supervisor."""
        with self._lock:
            if self._containers[name].phase in UP:
                self._containers[name].phase = Phase.LOST

    def exit(self, name: str, code: int) -> None:
        """The program ended and the policy says: leave it."""
        with self._lock:
            self._containers[name].phase = Phase.EXITED
            self._containers[name].exit_code = code

    def runs(self, name: str) -> bool:
        with self._lock:
            return bool(self._containers[name].phase is Phase.RUNNING)

    def restart(self, name: str, reason: str = "failure") -> None:
        """Its shim did so: the program had ended, for one of supervise.REASONS."""
        with self._lock:
            container = self._containers[name]
            self._starts += 1
            container.phase, container.started_ticks = Phase.RUNNING, self._starts
            container.restarts += 1
            container.reasons[reason] = container.reasons.get(reason, 0) + 1

    def set_health(self, name: str, health: Health) -> None:
        with self._lock:
            self._containers[name].health = health

    def set_ready(self, name: str, ready: bool) -> None:
        """What the readiness probe says."""
        with self._lock:
            self._containers[name].ready = ready

    def set_phase(self, name: str, phase: Phase, finished_at: float = 0.0, error: str = "") -> None:
        with self._lock:
            self._containers[name].phase = phase
            self._containers[name].error = error
            self._containers[name].finished_at = finished_at

    def damage(self, name: str, *defects: Defect) -> None:
        """A container, a network, or "firewall" is not as recorded."""
        with self._lock:
            if name == "firewall":
                self._firewall = defects
            elif name in self._containers:
                self._containers[name].defects = defects
            else:
                self._networks[name].defects = defects

    def stir(self) -> None:
        """The kernel says that something of networks changed."""
        self._heard()

    def leave(self, *names: str) -> None:
        """A crash left half-made things."""
        with self._lock:
            self._leftovers.update(names)

    def reboot(self) -> None:
        for name, container in self._containers.items():
            self.lose(name)
            container.started_at = 0.0
