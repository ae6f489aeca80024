"""Effects: one stage from its base to its last instruction: each step is taken from the cache or done.

A step is done over the layers of the steps before it, in a directory of its own that becomes a layer of the
image store; then it is remembered. What fails leaves the layers before it remembered.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runtime.build.cache import Cache, Step
from runtime.build.config import stamped
from runtime.build.effects import Effect, RunEffect, WorkdirEffect
from runtime.build.executor import Cancelled
from runtime.build.failure import StepFailed
from runtime.build.graph import PlannedStage
from runtime.build.instructions import Instruction
from runtime.build.keys import workdir_key
from runtime.build.owners import find_owner
from runtime.build.places import make_directories, resolve, text
from runtime.build.problems import BuildWarning, DockerfileError
from runtime.build.progress import Teller, Vertex
from runtime.build.request import BuildRequest
from runtime.build.scope import Scope
from runtime.build.stage import StageState, step
from runtime.build.workspace import Workspace
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.images.compose import Composer


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage is after an instruction: its layers and their diff ids, bottom first, and its state.
    `created` is when the last of its layers was made."""

    chain: tuple[str, ...]
    diff_ids: tuple[str, ...]
    state: StageState
    created: str = ""

    @property
    def top(self) -> str:
        return self.chain[-1] if self.chain else ""


@dataclass(frozen=True, slots=True)
class Task:
    """A step that makes a layer: its key, and what does it over the layers before, returning the directory
    of what changed. `sure` becomes false where what was done is not what the key says. `drop` lets go of
    what was fetched for it, whether it was done or not."""

    key: str
    do: Callable[[Vertex], Path]
    sure: Callable[[], bool] = lambda: True
    drop: Callable[[], None] = lambda: None


class StageRun:
    """Does the instructions of one stage, for one platform."""

    def __init__(
        self,
        planned: PlannedStage,
        platform: str,
        request: BuildRequest,
        work: Workspace,
        cache: Cache,
        composer: Composer,
        teller: Teller,
        cancelled: threading.Event,
        tasks: Callable[[Made, Effect], Task],
        missed: Callable[[], None],
    ) -> None:
        """`tasks` makes of an effect what is to be done, `missed` is called before anything is."""
        self._planned, self._platform, self._request = planned, platform, request
        self._work, self._cache, self._composer, self._teller = work, cache, composer, teller
        self._cancelled, self._tasks, self._missed = cancelled, tasks, missed
        self._fresh = request.no_cache or planned.name in {name.lower() for name in request.no_cache_filter}
        self._total = 1 + sum(_has_step(item) for item in planned.instructions)
        self._done = 1
        self.steps: list[Step] = []
        self.cached = 0
        self.warnings: list[BuildWarning] = []

    def run(self, base: Made, scope: Scope) -> Made:
        """Faults of steps (build-failed), dockerfile-invalid; executor.Cancelled."""
        made = base
        for instruction in self._planned.instructions:
            if self._cancelled.is_set():
                raise Cancelled
            stepped = step(made.state, instruction, scope)
            self.warnings += stepped.warnings
            made = Made(made.chain, made.diff_ids, stepped.state, made.created)
            if stepped.effect is not None:
                made = self._step(made, stepped.effect)
        return made

    def _step(self, made: Made, effect: Effect) -> Made:
        assert effect is not None
        self._done += 1
        title = f"[{self._planned.title} {self._done}/{self._total}] {effect.title}"
        vertex: Vertex | None = None
        task: Task | None = None
        try:
            task = self._tasks(made, effect)  # waits for the stages that the step takes from
            vertex = self._teller.begin(title)
            found = None if self._fresh else self._known(task.key)
            if found is not None:
                self.cached += 1
                vertex.cached()
            else:
                found = self._do(made, effect, task, vertex)
                vertex.done()
        except (Fault, OSError, DockerfileError, Cancelled) as error:
            raise self._ended(effect, vertex or self._teller.begin(title), error) from error
        finally:
            if task is not None:
                task.drop()
        self.steps.append(found)
        state = StageState(
            stamped(made.state.config, found.created),
            made.state.environment,
            made.state.args,
            made.state.once,
            made.state.workdir_set,
        )
        return Made((*made.chain, found.chain_id), (*made.diff_ids, found.diff_id), state, found.created)

    def _ended(self, effect: Effect, vertex: Vertex, error: Exception) -> Exception:
        """What is raised for a step that ended so, once that is told."""
        if isinstance(error, DockerfileError | Cancelled):
            vertex.failed(str(error) or "cancelled")
            return error
        if isinstance(error, StepFailed):
            vertex.failed(error.reason)
            error.stage = error.stage or self._planned.title
            return error
        code = error.code if isinstance(error, Fault) else ""
        cause = str(error)
        if isinstance(error, OSError):
            cause = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}".lower()
            code = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        vertex.failed(cause)
        assert effect is not None
        title, stage = effect.title, self._planned.title
        return StepFailed(self._request.label, effect.place, title, cause, stage=stage, code=code)

    def _known(self, key: str) -> Step | None:
        found = self._cache.find(key)
        if found is None or self._work.layer(found.chain_id).is_dir():
            return found
        self._cache.forget(key)
        return None

    def _do(self, made: Made, effect: Effect, task: Task, vertex: Vertex) -> Step:
        self._missed()
        upper = task.do(vertex)
        committed = self._composer.commit_layer(upper, made.top, epoch=self._request.epoch)
        now = time.time()
        created = timestamp(self._request.epoch if self._request.epoch is not None else now)
        assert effect is not None
        found = Step(
            task.key,
            committed.chain_id,
            made.top,
            committed.diff_id,
            committed.size,
            created,
            now,
            effect.title[:500],
        )
        if task.sure():
            self._cache.add(found, (*made.chain, found.chain_id))
        return found


def _has_step(instruction: Instruction) -> bool:
    return type(instruction).__name__ in ("Run", "Copy", "Add", "Workdir")


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, as image configs have it."""
    whole = int(seconds)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    rest = round((seconds - whole) * 1e6)
    return f"{text}.{rest:06d}Z" if 0 < rest < 1_000_000 else f"{text}Z"


# ---------------------------------------------------------------- WORKDIR


def workdir_task(work: Workspace, made: Made, effect: WorkdirEffect, epoch: int | None) -> Task:
    """The directory and those above it, owned by the user that the image is set to, where they are
    missing."""

    def do(_vertex: Vertex) -> Path:
        with work.draft(made.chain) as draft:
            uid, gid = owner_in(draft.root, effect.user) if effect.user else (0, 0)
            make_directories(draft.root, resolve(draft.root, effect.path), lambda fd: os.fchown(fd, uid, gid))
            return draft.upper

    return Task(workdir_key(effect, made.top, epoch), do)


def owner_in(root: int, name: str) -> tuple[int, int]:
    """Fault request-invalid for a name that the image does not have."""
    try:
        return find_owner(name, text(root, "etc/passwd"), text(root, "etc/group"))
    except ValueError as error:
        raise Fault("request-invalid", "find owner", name, str(error), "give a number") from error


def environment_of(effect: RunEffect) -> dict[str, str]:
    """What the program sees: proxies only where nothing else has their names."""
    found = dict(effect.environment)
    for name, value in effect.proxies:
        found.setdefault(name, value)
    return found
