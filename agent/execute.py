"""Effects: run steps in bounded pools of threads. It decides nothing; a failure cancels no other step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from agent.perform import perform
from agent.planner.model import (
    Action,
    BackupVolume,
    BuildImage,
    DrillBackup,
    Limits,
    LookUpImage,
    MeasureImage,
    PullImage,
    RepairImage,
    Result,
    Step,
    Subject,
)
from runtime.faults import Fault
from runtime.interface import Progress, Runtime


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended. `code` is "" for success; "bug" stands for an exception that is no Fault."""

    step: Step
    code: str = ""
    message: str = ""
    started_at: float = 0.0  # seconds since the epoch
    seconds: float = 0.0
    result: Result = None  # what it found out

    @property
    def ok(self) -> bool:
        return not self.code


class Executor:
    """`done` is called, in a worker's thread, after each step; `begun` before it."""

    def __init__(
        self,
        runtime: Runtime,
        limits: Limits,
        *,
        begun: Callable[[Step], None],
        done: Callable[[Outcome], None],
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._runtime, self._begun, self._done, self._progress = runtime, begun, done, progress
        self._steps = ThreadPoolExecutor(limits.parallel, "stead-step")
        self._pulls = ThreadPoolExecutor(limits.pulls, "stead-pull")
        self._builds = ThreadPoolExecutor(limits.builds, "stead-build")
        self._backups = ThreadPoolExecutor(1, "stead-backup")  # they share one disk
        self._looks = ThreadPoolExecutor(limits.pulls, "stead-look")
        self._lock = threading.Lock()
        self._futures: dict[Subject, Future[None]] = {}

    def start(self, step: Step) -> None:
        """Queue `step`. The caller sees to it that its subject has no other step here."""
        with self._lock:
            assert step.subject not in self._futures
            self._futures[step.subject] = self._pool(step.action).submit(self._run, step)

    def _pool(self, action: Action) -> ThreadPoolExecutor:
        """What may wait long for a registry or a build never keeps a container from starting."""
        match action:
            case LookUpImage() | MeasureImage():
                return self._looks
            case PullImage() | RepairImage():
                return self._pulls
            case BuildImage():
                return self._builds
            case BackupVolume() | DrillBackup():
                return self._backups
            case _:
                return self._steps

    def cancel_queued(self) -> set[Subject]:
        """Take back what has not begun. Returns the subjects that are free again."""
        with self._lock:
            freed = {subject for subject, future in self._futures.items() if future.cancel()}
            for subject in freed:
                del self._futures[subject]
            return freed

    def busy(self) -> bool:
        with self._lock:
            return bool(self._futures)

    def close(self) -> None:
        """Take back what has not begun and wait for the rest."""
        self.cancel_queued()
        self._steps.shutdown(wait=True)
        self._looks.shutdown(wait=True)
        self._pulls.shutdown(wait=True)
        self._builds.shutdown(wait=True)
        self._backups.shutdown(wait=True)

    def _run(self, step: Step) -> None:
        begin, started_at = time.monotonic(), time.time()
        self._begun(step)
        code, message = "", ""
        result: Result = None
        try:
            result = perform(self._runtime, step, self._progress)
        except Fault as fault:
            code, message = fault.code, str(fault)
        except Exception as error:  # the step runner: one bug must not stop the other steps
            code, message = "bug", f"cannot {step.id}: {type(error).__name__}: {error}"
        with self._lock:
            self._futures.pop(step.subject, None)
        self._done(Outcome(step, code, message, started_at, time.monotonic() - begin, result))
