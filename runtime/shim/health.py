"""Effects: the probes of one container, one of a kind at a time, while its program runs. When they run and
what follows is decided in runtime.shim.supervise."""

from __future__ import annotations

import os
import time

from runtime.shim import messages, peers, probes, supervise, targets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.shim.loop import Timer
    from runtime.shim.monitor import Document, Monitor

#: Seconds until a container that is frozen is looked at again.
FROZEN = 0.2
#: Of runtime.frozen: written anew whenever the container has been frozen.
TRACE = "frozen"
#: Bytes read of the container's hosts file.
MAX_HOSTS = 1 << 20

_KEYS = dict(zip(supervise.KINDS, messages.PROBES, strict=True))
_LOGS = dict(zip(supervise.KINDS, messages.PROBE_LOGS, strict=True))


class Track:
    """One kind of probe. `memory` is None while it does not run; `trace` is that of the last freezing before
    its probe began."""

    __slots__ = ("document", "memory", "policy", "probe", "timer", "trace")

    def __init__(self, kind: str, document: Document) -> None:
        self.document, self.policy = document, supervise.policy_of(kind, document)
        self.memory: supervise.HealthMemory | None = None
        self.probe: probes.Probe | None = None
        self.timer: Timer | None = None
        self.trace = 0


class Health:
    def __init__(self, shim: Monitor, live: str) -> None:
        self._shim, self._live = shim, live
        self._tracks: dict[str, Track] = {}

    def read(self, document: Document) -> None:
        """What the supervise document says of probes; those that it does not change go on. A startup probe
        that is new holds from the next run on. ValueError when one cannot be read: nothing changes then."""
        tracks = {}
        for kind, key in _KEYS.items():
            asked = document.get(key)
            if not asked or asked.get("disabled"):
                continue
            old = self._tracks.get(kind)
            tracks[kind] = old if old is not None and old.document == asked else Track(kind, asked)
        had = self._tracks.get(supervise.STARTUP)
        has_started = had is None or (had.memory is not None and had.memory.status == supervise.HEALTHY)
        before, self._tracks = self._tracks, tracks
        for kind, track in before.items():
            if tracks.get(kind) is not track:
                self._halt(track)
        if self._shim.phase == supervise.RUNNING:
            startup = tracks.get(supervise.STARTUP)
            if startup is not None and startup.memory is None and has_started:
                now = time.monotonic()
                startup.memory = supervise.HealthMemory(supervise.HEALTHY, now, now, healthy_since=now)
            self.begin()

    @property
    def is_asked(self) -> bool:
        return bool(self._tracks)

    def standing(self) -> Document:
        """Keys of the state record."""
        memories = self._memories()
        return {
            "health": supervise.health_of(self._tracks, memories),
            "ready": supervise.is_ready(self._tracks, memories),
        }

    def liveness(self) -> supervise.HealthMemory | None:
        track = self._tracks.get(supervise.LIVENESS)
        return track.memory if track is not None else None

    def running(self) -> list[probes.Probe]:
        return [track.probe for track in self._tracks.values() if track.probe is not None]

    def begin(self) -> None:
        """The program runs: probe what is not being probed. The others wait for a startup probe."""
        startup = self._tracks.get(supervise.STARTUP)
        if startup is not None and startup.memory is None:
            self._start(supervise.STARTUP, at_once=False)
        passed = (
            startup is not None and startup.memory is not None and startup.memory.status == supervise.HEALTHY
        )
        if startup is not None and not passed:
            return
        for kind, track in self._tracks.items():
            if track.memory is None:
                self._start(kind, at_once=passed)

    def end(self) -> None:
        """The program has ended. Repeatable."""
        for track in self._tracks.values():
            self._halt(track)

    def _memories(self) -> dict[str, supervise.HealthMemory]:
        return {kind: track.memory for kind, track in self._tracks.items() if track.memory is not None}

    def _halt(self, track: Track) -> None:
        self._shim.loop.cancel(track.timer)
        track.timer = track.memory = None
        if track.probe is not None:
            track.probe.cancel()
            track.probe = None

    def _start(self, kind: str, *, at_once: bool) -> None:
        track = self._tracks[kind]
        track.memory = supervise.begin_health(track.policy, time.monotonic(), at_once=at_once)
        self._schedule(kind, track)

    def _schedule(self, kind: str, track: Track) -> None:
        assert track.memory is not None
        self._later(kind, track, max(0.0, track.memory.next_at - time.monotonic()))

    def _later(self, kind: str, track: Track, delay: float) -> None:
        track.timer = self._shim.loop.after(delay, lambda: self._probe(kind, track))

    def _probe(self, kind: str, track: Track) -> None:
        shim, began, began_at = self._shim, time.monotonic(), time.time()
        if shim.child is None or shim.phase != supervise.RUNNING:
            return
        if shim.host.is_frozen(shim.cgroup):  # whoever is frozen is well, and cannot say so
            self._later(kind, track, FROZEN)
            return
        track.trace = self._trace()

        def done(code: int, output: str) -> None:
            track.probe = None
            self._probed(kind, track, code, output, (began, began_at))

        try:
            track.probe = probes.begin(
                shim.loop,
                shim.launcher,
                track.document,
                track.policy.timeout,
                done,
                init_pidfd=shim.child.pidfd,
                hosts=self._hosts,
            )
        except (OSError, ValueError) as error:
            done(probes.NO_ANSWER, str(error))

    def _trace(self) -> int:
        try:
            return os.stat(TRACE, dir_fd=self._shim.live_fd).st_mtime_ns
        except OSError:
            return 0

    def _hosts(self) -> dict[str, str]:
        """What the container's /etc/hosts says, which the agent keeps in the bundle, and its peers."""
        try:
            with open(f"{self._shim.bundle}/hosts", "rb") as file:
                said = targets.read_hosts(file.read(MAX_HOSTS).decode(errors="replace"))
        except OSError:
            said = {}
        return peers.Hosts(said, self._live)

    def _probed(self, kind: str, track: Track, code: int, output: str, began: tuple[float, float]) -> None:
        shim, before = self._shim, track.memory
        if before is None or shim.phase != supervise.RUNNING:
            return
        # it was frozen before it could answer, and still is or had no time left to
        if code and (shim.host.is_frozen(shim.cgroup) or self._trace() != track.trace):
            self._later(kind, track, FROZEN)
            return
        track.memory = after = supervise.after_probe(
            track.policy, before, success=code == 0, began=began[0], now=time.monotonic()
        )
        if kind == supervise.STARTUP and after.status == supervise.HEALTHY:
            self.begin()
        else:
            self._schedule(kind, track)
        result = {"started_at": began[1], "finished_at": time.time(), "exit_code": code, "output": output}
        shim.probed(_LOGS[kind], result, self.standing())
        action = supervise.on_unhealthy(track.policy, shim.restart, before, after)
        if action:
            shim.stop_unhealthy(action)
