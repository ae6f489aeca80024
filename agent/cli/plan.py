"""Effects: `stead plan DIR`. Exit 0: nothing to do, 2: something, 1: the specs or the machine cannot
be read.
"""

from __future__ import annotations

import json

from agent.cli import specs
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from agent.planner.model import Plan
    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    specs.add_options(parser)
    parser.add_argument("--json", action="store_true", help="steps as JSON")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    settings = specs.settings_of(options)
    found = specs.read(options, settings, paths)
    if found.desired is None:
        specs.show_problems(found)
        return 1
    found, held = specs.pinned(options, paths, settings, found)
    if found.desired is None:
        specs.show_problems(found)
        return 1
    from contextlib import ExitStack, closing
    from functools import partial

    from agent.cli.apply import waits
    from agent.clock import SystemClock
    from agent.converge import Engine
    from agent.journal import read_pulled, read_remembered
    from agent.machine import open_runtime
    from agent.planner.model import Memory
    from agent.planner.updates import NONE
    from agent.recall import recall
    from agent.rollouts import opened

    with closing(open_runtime(paths, settings)) as runtime, ExitStack() as stack:
        rollouts = stack.enter_context(opened(paths.rollouts)) if paths.rollouts.exists() else None
        engine = Engine(runtime, rollouts=rollouts, limits=settings.planner_limits())
        pulled = read_pulled(paths.journal, found.desired.source, found.revision.id)
        remembered = partial(read_remembered, paths.journal)
        engine.memory = recall(remembered, SystemClock(), Memory(pulled=pulled))
        plan = engine.plan_once(found.desired, found.revision.id)
        engine.close()
        orders = rollouts.orders() if rollouts is not None else NONE
        if not held and (why := waits(settings, runtime, orders, found.desired, found.revision)):
            held = f"source {found.desired.source}: {why}"
    if options.json:
        print(json.dumps(document(plan, found.desired.source, held), indent=1))
    else:
        print("\n".join(filter(None, (held, str(plan)))) or "nothing to do")
    return 2 if plan.steps or plan.blocked or held else 0


def document(plan: Plan, source: str, held: str) -> dict[str, object]:
    """`held`: why the newest revision of the source is not put in force; the steps are those of what is, or,
    where it waits to be approved, those that would follow."""
    steps = [
        {
            "id": step.id,
            "verb": step.verb,
            "kind": step.subject.kind,
            "name": step.subject.name,
            "reason": step.cause.reason,
            "cause": str(step.cause),
            "after": sorted(step.after),
        }
        for step in plan.steps
    ]
    blocked = [
        {"kind": item.subject.kind, "name": item.subject.name, "code": item.code, "reason": item.reason}
        for item in plan.blocked
    ]
    if held:
        reason = held.removeprefix(f"source {source}: ")
        blocked.insert(0, {"kind": "source", "name": source, "code": "held", "reason": reason})
    return {"steps": steps, "blocked": blocked}
