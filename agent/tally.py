"""Effects: counters for metrics, kept in memory by the engine and handed out as frozen values."""

from __future__ import annotations

import threading
from collections import Counter

from agent.execute import Outcome
from agent.planner.model import NOTES, BuildImage, BuiltImage, Collected, Plan, PullImage, Step, Subject
from agent.planner.updates import Notice
from agent.view import Counters, ImageCounters
from runtime.interface import Transfer
from runtime.observations import Defect, Observed, Phase


class Tally:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: Counter[tuple[str, str, str, str]] = Counter()
        self._seconds: dict[tuple[str, str], float] = {}
        self._rounds: Counter[str] = Counter()
        self._drift: Counter[str] = Counter()
        self._mending: dict[Subject, list[str]] = {}
        self._repairs: Counter[str] = Counter()
        self._looks = 0
        self._look_seconds = 0.0
        self._revisions: Counter[tuple[str, str]] = Counter()
        self._notices: Counter[tuple[str, str]] = Counter()
        self._round_seconds = self._last_round = 0.0
        self._images = _Images()
        self._backup_failures: Counter[tuple[str, str]] = Counter()

    def begin(self, step: Step, observed: Observed) -> None:
        kinds = _drift(step, observed)
        with self._lock:
            self._drift.update(kinds)
            if kinds:
                self._mending[step.subject] = kinds

    def end(self, outcome: Outcome) -> None:
        step = outcome.step
        result = outcome.code or "ok"
        with self._lock:
            self._steps[(step.subject.kind, step.verb, step.cause.reason, result)] += 1
            key = (step.subject.kind, step.verb)
            self._seconds[key] = self._seconds.get(key, 0.0) + outcome.seconds
            self._images.end(outcome)
            if step.subject.kind == "backup" and outcome.code:
                self._backup_failures[step.subject.name, "drill" if step.verb == "drill" else "backup"] += 1
            mended = self._mending.pop(step.subject, [])
            if outcome.ok and step.verb != "stop":
                self._repairs.update(mended)

    def transfer(self, transfer: Transfer) -> None:
        with self._lock:
            self._images.transfer(transfer)

    def round(self, plan: Plan, busy: bool, seconds: float) -> None:
        outcome = "progressing" if busy else "blocked" if _held(plan) else "converged"
        with self._lock:
            self._rounds[outcome] += 1
            self._round_seconds += seconds
            self._last_round = seconds

    def look(self, seconds: float) -> None:
        """At networks alone."""
        with self._lock:
            self._looks += 1
            self._look_seconds += seconds

    def failed_round(self) -> None:
        with self._lock:
            self._rounds["error"] += 1

    def notice(self, notice: Notice) -> None:
        with self._lock:
            self._notices[(notice.source, notice.kind)] += 1

    def revision(self, source: str, result: str) -> None:
        with self._lock:
            self._revisions[(source, result)] += 1

    def counters(self) -> Counters:
        with self._lock:
            return Counters(
                dict(self._steps),
                dict(self._seconds),
                dict(self._rounds),
                self._round_seconds,
                self._last_round,
                dict(self._drift),
                dict(self._revisions),
                self._images.counters(),
                dict(self._backup_failures),
                dict(self._repairs),
                self._looks,
                self._look_seconds,
                dict(self._notices),
            )


class _Images:
    """What is counted of images. Not thread-safe."""

    def __init__(self) -> None:
        self._pulls: Counter[tuple[str, str]] = Counter()
        self._builds: Counter[str] = Counter()
        self._steps: Counter[bool] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._seconds: dict[tuple[str, str], float] = {}
        self._pull_seconds: dict[str, float] = {}
        self._build_seconds = 0.0
        self._collected = self._collected_bytes = 0

    def end(self, outcome: Outcome) -> None:
        result, seconds = outcome.code or "ok", outcome.seconds if outcome.ok else 0.0
        match outcome.step.action, outcome.result:
            case PullImage(image=image), _:
                host = image.ref.host
                self._pulls[host, result] += 1
                self._pull_seconds[host] = self._pull_seconds.get(host, 0.0) + seconds
            case BuildImage(), found:
                self._builds[result] += 1
                self._build_seconds += seconds
                if isinstance(found, BuiltImage):
                    self._steps[True] += found.cached
                    self._steps[False] += found.steps - found.cached
            case _, Collected(removed=removed):
                self._collected += len(removed)
                self._collected_bytes += sum(item.size for item in removed)
            case _:
                pass

    def transfer(self, transfer: Transfer) -> None:
        key = (transfer.direction, transfer.host)
        self._bytes[key] += transfer.bytes
        self._seconds[key] = self._seconds.get(key, 0.0) + transfer.seconds

    def counters(self) -> ImageCounters:
        return ImageCounters(
            dict(self._pulls),
            dict(self._pull_seconds),
            dict(self._bytes),
            dict(self._seconds),
            dict(self._builds),
            self._build_seconds,
            dict(self._steps),
            self._collected,
            self._collected_bytes,
        )


def _held(plan: Plan) -> bool:
    """Whether something cannot be done now that is more than a note."""
    return any(item.code not in NOTES for item in plan.blocked)


def _drift(step: Step, observed: Observed) -> list[str]:
    """Kinds of what the step mends; "shim" for a supervisor that is gone."""
    if step.cause.reason == "drift":
        return [defect.kind for defect in _defects(step, observed)]
    have = observed.containers.get(step.subject.name) if step.verb == "start" else None
    return ["shim"] if have is not None and have.phase is Phase.LOST else []


def _defects(step: Step, observed: Observed) -> tuple[Defect, ...]:
    match step.subject.kind:
        case "container":
            have = observed.containers.get(step.subject.name)
            return have.defects if have else ()
        case "network":
            network = observed.networks.get(step.subject.name)
            return network.defects if network else ()
        case "image":
            return (Defect("layer", step.cause.text),)
        case "firewall":
            return observed.firewall
        case _:
            return ()
