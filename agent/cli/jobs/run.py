"""Effects: `stead job run NAME`: a run outside the schedule. Exit code with --wait: the run's own; 1 when it
did not run, or was cut off.
"""

from __future__ import annotations

import sys
import time

from agent.cli.calling import call
from agent.cli.jobs import known
from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from agent.planner.runs import Ended
    from runtime.paths import Paths

#: seconds between two looks for its end, and between two questions why it has not begun
PERIOD, ASK = 0.1, 1.0


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "until it has ended, retries included; the exit code is that of the run"
    parser.add_argument("-w", "--wait", action="store_true", help=text)
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    name, job = known.find(paths, options.name)
    at = float(call(paths, "job-run", name=name))
    lives = _agent_lives(paths)
    if not options.wait:
        held = f" (it runs when this ends: {job.held})" if job.held else ""
        print(name + held if lives else f"{name} (no agent runs: it runs when one does)")
        return 0
    if not lives:
        raise Problem(f"no agent runs on {paths.root}: {name} runs when one does")
    line = ended(paths, name, at, _Teller(paths, name, job.source).look)
    if line.result != "ok":
        text = f": {line.text}" if line.text else ""
        code = "" if line.exit_code is None else f" (exit code {line.exit_code})"
        raise Problem(f"{name}: {line.result}{code}{text}", line.exit_code or 1)
    return 0


def _agent_lives(paths: Paths) -> bool:
    from agent.cli.status import ask

    try:
        ask(paths, "/v1/status")
    except Problem:
        return False
    return True


def ended(paths: Paths, name: str, at: float, waits: Callable[[], None] = lambda: None) -> Ended:
    """The last line of the run that was asked for at this time, once it has come to its end; `waits` is
    called while it has not begun. Problem when there will be none, or not until a person does something."""
    from agent.runs import is_asked, read_jobs, read_runs

    while True:
        asked = is_asked(paths.journal, name, at)  # first: what becomes of it is written when that goes
        job = read_jobs(paths.journal).get(name)
        if job is None:
            raise Problem(f"{name} is no longer a job")
        runs = job.run is not None and job.run.due.at == at
        if not asked and not runs and at not in {item.at for item in job.queue}:
            found = [line for line in read_runs(paths.journal, name) if line.due == at]
            if found:
                return found[0]
            raise Problem(f"{name}: its run has left the history: other lines came after it")
        if not asked and not runs and job.held:
            raise Problem(f"{name} does not begin: {job.held} (it runs when that ends)")
        if not runs:
            waits()
        time.sleep(PERIOD)


class _Teller:
    """Says on stderr what a run waits for, as the agent's status has it; each thing once."""

    def __init__(self, paths: Paths, name: str, source: str) -> None:
        self._paths, self._name, self._source = paths, name, source
        self._next, self._told = time.monotonic() + ASK, ""

    def look(self) -> None:
        if time.monotonic() < self._next:
            return
        reason = self._reason()
        self._next = time.monotonic() + ASK
        if reason and reason != self._told:
            print(f"{self._name} waits: {reason}", file=sys.stderr, flush=True)
        self._told = reason

    def _reason(self) -> str:
        from agent.cli.status import ask

        try:
            status = ask(self._paths, "/v1/status")
        except Problem as problem:
            return str(problem)
        for item in status["blocked"]:
            if (item["kind"], item["name"]) == ("container", self._name):
                return str(item["reason"])
        for source in status["sources"]:
            if source["name"] == self._source and not source["revision"]:
                return f"nothing of its source {self._source} is in force yet"
        return ""
