"""Effects: `stead job run NAME`: a run outside the schedule. Exit code with --wait: the run's own; 1 when it
did not run, or was cut off.
"""

from __future__ import annotations

import time

from agent.cli.calling import call
from agent.cli.jobs import known
from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from agent.planner.runs import Ended
    from runtime.paths import Paths

#: seconds between two looks for its end
PERIOD = 0.1


def add_options(parser: argparse.ArgumentParser) -> None:
    text = "until it has ended, retries included; the exit code is that of the run"
    parser.add_argument("-w", "--wait", action="store_true", help=text)
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    name, _ = known.find(paths, options.name)
    at = float(call(paths, "job-run", name=name))
    lives = _agent_lives(paths)
    if not options.wait:
        print(name if lives else f"{name} (no agent runs: it runs when one does)")
        return 0
    if not lives:
        raise Problem(f"no agent runs on {paths.root}: {name} runs when one does")
    line = ended(paths, name, at)
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


def ended(paths: Paths, name: str, at: float) -> Ended:
    """The last line of the run that was asked for at this time, once it has come to its end. Problem when
    there will be none."""
    from agent.runs import is_asked, read_jobs, read_runs

    while True:
        asked = is_asked(paths.journal, name, at)  # first: what becomes of it is written when that goes
        job = read_jobs(paths.journal).get(name)
        if job is None:
            raise Problem(f"{name} is no longer a job")
        coming = {item.at for item in job.queue} | ({job.run.due.at} if job.run is not None else set())
        if not asked and at not in coming:
            found = [line for line in read_runs(paths.journal, name) if line.due == at]
            if found:
                return found[0]
            raise Problem(f"{name}: its run has left the history: other lines came after it")
        time.sleep(PERIOD)
