"""Effects: `stead apply DIR`: converge once, without an agent. Exit 0: all runs and is healthy; 1:
what does not.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from agent.cli import specs, table
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from agent.converge import Event, Result
    from agent.planner.updates import Orders
    from agent.settings import Settings
    from agent.sources.revision import Revision
    from runtime.interface import Progress, Runtime
    from runtime.paths import Paths
    from specs.desired import Desired

#: ECMA-48: erase the line from the cursor on.
CLEAR = "\x1b[K"
#: columns of a line that is written over
WIDTH = 79


def add_options(parser: argparse.ArgumentParser) -> None:
    specs.add_options(parser)
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="give up after")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    settings = specs.settings_of(options)
    found = specs.read(options, settings, paths)
    if found.desired is None:
        specs.show_problems(found)
        return 1
    found, pin = specs.pinned(options, paths, settings, found)
    if found.desired is None:
        specs.show_problems(found)
        return 1
    result = converge(paths, settings, found.desired, found.revision, options.timeout, pinned=bool(pin))
    if pin:
        result = replace(result, ok=False, failures=(*result.failures, pin))
    count = len(found.desired.containers)
    well = f"{count} container{'s' if count != 1 else ''} as declared"
    if result.notes:  # such as a suspension
        well += f", but for what the note{'s say' if len(result.notes) > 1 else ' says'}"
    return report(result, well)


def converge(
    paths: Paths,
    settings: Settings,
    desired: Desired,
    revision: Revision,
    timeout: float,
    *,
    pinned: bool = False,
    down: bool = False,
    volumes: bool = False,
) -> Result:
    """Hold the root's lock, open the runtime, and go on until it is done or cannot be. Raises Fault
    locked.
    """
    from contextlib import closing

    from agent.converge import Engine, Result
    from agent.desired import Shelf
    from agent.journal import Journal
    from agent.journal import Revision as Revised
    from agent.lock import hold
    from agent.machine import open_runtime
    from agent.rollouts import opened

    paths.make()
    with hold(paths, "apply"), closing(open_runtime(paths, settings)) as runtime:
        with closing(Journal(paths.journal)) as journal, opened(paths.rollouts) as rollouts:
            if not down:
                why = waits(settings, runtime, rollouts.orders(), desired, revision)
                said = ("held", (why,)) if why else ("accepted", ())
                if why or not pinned:
                    journal.revision(Revised(time.time(), desired.source, revision.id, revision.note, *said))
                if why:
                    return Result(False, (f"source {desired.source}: {why}",))
                if not pinned:
                    rollouts.came_in_force(desired.source, revision.id)
            engine = Engine(runtime, journal, rollouts=rollouts, limits=settings.planner_limits())
            with closing(engine):
                if down:
                    return engine.down(desired, volumes=volumes, on_event=Show(), timeout=timeout)
                Shelf(paths, desired.source).remember(revision, anew=not pinned)
                return engine.apply(desired, revision.id, on_event=Show(), timeout=timeout)


def waits(settings: Settings, runtime: Runtime, orders: Orders, desired: Desired, revision: Revision) -> str:
    """Why a person must be asked before this revision is put in force; empty when none need be."""
    from agent.planner.guard import approved, held

    if approved(orders.approved, desired.source, revision.id):
        return ""
    return held(settings.guarding(), revision.id, desired, runtime.observe(), empty=not revision.files)


class Show:
    """One line an event as it happens; on a terminal, how far a pull is, or what a build says, stands below
    the last one."""

    def __init__(self) -> None:
        self._done: dict[str, dict[str, tuple[int, int]]] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            print(CLEAR + event.text if sys.stdout.isatty() else event.text, flush=True)
        elif event.kind == "failed":
            print(f"failed: {event.text}", file=sys.stderr, flush=True)
        elif event.kind == "progress" and event.progress is not None and sys.stdout.isatty():
            print(CLEAR + self._line(event.progress)[:WIDTH], end="\r", flush=True)

    def _line(self, progress: Progress) -> str:
        if progress.what == "build":
            return f"{progress.subject}: {progress.layer.splitlines()[-1] if progress.layer.strip() else ''}"
        layers = self._done.setdefault(progress.subject, {})
        if progress.what == "wait" or progress.layer in layers:
            last = layers.get(progress.layer, (0, 0))[0]
            done = progress.done if progress.what == "download" else last
            layers[progress.layer] = (max(last, done), progress.total)
        done, total = (sum(part) for part in zip(*layers.values(), strict=True)) if layers else (0, 0)
        return f"{progress.subject}: {table.size(done)}" + (f" of {table.size(total)}" if total else "")


def report(result: Result, well: str) -> int:
    for note in result.notes:
        print(f"note: {note}")
    for failure in result.failures:
        print(f"not converged: {failure}", file=sys.stderr)
    if result.ok:
        print(well if result.steps else f"nothing to do: {well}")
    return 0 if result.ok else 1
