"""Effects: what is measured. Each scenario measures Stead first, then the engines that are there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from agent.converge import Engine as Converger
from agent.desired import Surroundings, load_directory
from benchmarks.builds import build
from benchmarks.life import life
from benchmarks.listing import listing
from benchmarks.logs import logs
from benchmarks.measure import Report, Row
from benchmarks.names import names
from benchmarks.networks import networks
from benchmarks.ports import ports
from benchmarks.probing import probing
from benchmarks.pulls import pull
from benchmarks.repair import repair
from benchmarks.rivals import Engine
from benchmarks.stead import Stead, cpu_seconds, rollup, until

#: As many commands of a rival at once as the machine has CPUs: what a script would do.
PARALLEL = os.cpu_count() or 1
IDLE_SECONDS, IDLE_TIMES = 20.0, 10
CROWD, MANY = 50, 100


class Bench:
    def __init__(self, stead: Stead, rivals: list[Engine], report: Report, runs: int) -> None:
        self.stead, self.rivals, self.report, self.runs = stead, rivals, report, runs

    def add(self, what: str, engine: str, unit: str, values: list[float], **more: object) -> None:
        self.report.add(Row(what, engine, unit, tuple(values), **more))  # type: ignore[arg-type]


def one(bench: Bench) -> None:
    """Create and start one container on a bridge, until its program is exec'ed."""
    what = "create + start one, bridge network"
    values = []
    with closing(bench.stead.open()) as runtime:
        for number in range(bench.runs + 1):
            begin = time.perf_counter()
            runtime.create_container(bench.stead.request(f"o{number}"))
            runtime.start_container(f"bench/o{number}")
            values.append((time.perf_counter() - begin) * 1e3)
        for number in range(bench.runs + 1):
            runtime.remove_container(f"bench/o{number}")
    bench.add(
        what, "stead", "ms", values[1:], target=25, note="in the agent; the first, with the zygote, left out"
    )
    for rival in bench.rivals:
        names = [f"o{number}" for number in range(bench.runs)]
        bench.add(what, rival.name, "ms", [rival.run(name) * 1e3 for name in names], note="run -d")
        rival.remove(names)


def hundred(bench: Bench) -> None:
    """From the saved file to a hundred running containers."""
    what, values = f"{MANY} containers, all running", []
    stead = bench.stead
    stead.declare(0)
    stead.start_agent()
    try:
        for _ in range(10):
            stead.declare(MANY)
            values.append(stead.all_run(MANY))
            until(lambda: stead.status().get("state") == "converged", pause=0.1)
            stead.declare(0)
            until(lambda: not stead.states() and stead.status().get("state") == "converged", pause=0.1)
    finally:
        stead.stop_agent()
    bench.add(what, "stead", "s", values, target=2.5, note="from the rename of the file on")
    for rival in bench.rivals:
        names = [f"h{number}" for number in range(MANY)]
        seen = []
        for _ in range(3):
            begin = time.perf_counter()
            with ThreadPoolExecutor(PARALLEL) as pool:
                list(pool.map(rival.run, names))
            seen.append(time.perf_counter() - begin)
            rival.remove(names)
        bench.add(what, rival.name, "s", seen, note=f"run -d, {PARALLEL} at once")


def nothing(bench: Bench) -> None:
    """Look at a hundred running containers and find nothing to do."""
    stead = bench.stead
    stead.declare(MANY)
    with closing(stead.open()) as runtime:
        converger = Converger(runtime)
        found = load_directory(stead.specs, around=Surroundings())
        assert found.desired is not None, found.problems
        result = converger.apply(found.desired, found.revision.id)
        assert result.ok, result.failures
        values = []
        deaf = runtime.watch_networks(lambda: None)  # as the agent does: untouched namespaces are not entered
        for _ in range(max(20, bench.runs)):
            begin = time.perf_counter()
            plan = converger.plan_once(found.desired)
            values.append((time.perf_counter() - begin) * 1e3)
            assert not plan.steps and not plan.blocked, str(plan)
        deaf()
        converger.down(found.desired)
        converger.close()
    bench.add(f"observe + plan {MANY}, nothing to do", "stead", "ms", values, target=50)


def idle(bench: Bench) -> None:
    """What fifty idle containers cost: processor of the agent, memory of one supervisor."""
    stead = bench.stead
    stead.declare(CROWD)
    agent = stead.start_agent()
    try:
        until(lambda: stead.running() == CROWD)
        time.sleep(15.0)  # the work of the start settles
        shims = [int(str(state["shim_pid"])) for state in stead.states()]
        shares, before_shims, began = [], cpu_seconds(shims), time.perf_counter()
        for _ in range(IDLE_TIMES):
            before, begin = cpu_seconds([agent]), time.perf_counter()
            time.sleep(IDLE_SECONDS)
            shares.append(100 * (cpu_seconds([agent]) - before) / (time.perf_counter() - begin))
        of_shims = 100 * (cpu_seconds(shims) - before_shims) / (time.perf_counter() - began)
        note = f"of one core, over {IDLE_SECONDS:g} s each; all shims together {of_shims:.2f} %"
        bench.add(f"idle agent, {CROWD} containers", "stead", "%", shares, target=0.5, note=note)
        for key, what in (("Pss", "PSS of one idle supervisor"), ("Private_Dirty", "private memory of one")):
            target = 1.2 if key == "Pss" else 0.6
            bench.add(what, "stead", "MiB", [rollup(pid, key) for pid in shims], target=target)
        bench.add("RSS of the agent", "stead", "MiB", [rollup(agent, "Rss")], note=f"{CROWD} containers")
        stead.declare(0)
        until(lambda: not stead.states(), pause=0.1)
    finally:
        stead.stop_agent()
    for rival in bench.rivals:
        _idle_rival(bench, rival)


def _idle_rival(bench: Bench, rival: Engine) -> None:
    names = [f"i{number}" for number in range(CROWD)]
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(rival.run, names))
    pids = _supervisors(rival)
    for key, what in (("Pss", "PSS of one idle supervisor"), ("Private_Dirty", "private memory of one")):
        bench.add(what, rival.name, "MiB", [rollup(pid, key) for pid in pids], note=rival.supervisor)
    rival.remove(names)


def _supervisors(rival: Engine) -> list[int]:
    """The processes that stay beside this engine's containers: they name a directory of its own."""
    found, own = [], {str(rival.base).encode(), str(rival.state).encode()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                comm = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if comm.startswith(rival.supervisor[:15]) and any(path in words for path in own):
                found.append(int(entry.name))
    if not found:
        raise LookupError(f"no {rival.supervisor} of {rival.name}'s is seen")
    return found


def heal(bench: Bench) -> None:
    """kill -9 of a container's program until it runs again, without an agent."""
    what, values = "killed program runs again", []
    with closing(bench.stead.open()) as runtime:
        runtime.create_container(bench.stead.request("k"))
        runtime.start_container("bench/k")
        for _ in range(bench.runs):
            (state,) = bench.stead.states()
            began, runs = time.time(), int(str(state["restarts"]))
            os.kill(int(str(state["pid"])), signal.SIGKILL)

            def again(runs: int = runs) -> bool:
                return any(
                    s["phase"] == "running" and int(str(s["restarts"])) > runs for s in bench.stead.states()
                )

            until(again, pause=0.001)
            (state,) = bench.stead.states()
            values.append((float(str(state["started_at"])) - began) * 1e3)
            runtime.stop_container("bench/k")  # the next kill is a first one again, without backoff
            runtime.start_container("bench/k")
        runtime.remove_container("bench/k")
    bench.add(what, "stead", "ms", values, target=15)
    for rival in bench.rivals:
        rival.run("heal", "--restart", "always")
        seen = []
        for _ in range(min(5, bench.runs)):
            pid = rival.pid("heal")
            begin = time.perf_counter()
            os.kill(pid, signal.SIGKILL)

            def anew(rival: Engine = rival, pid: int = pid) -> bool:
                return rival.pid("heal") not in (0, pid)

            until(anew)
            seen.append((time.perf_counter() - begin) * 1e3)
            time.sleep(11.0)  # docker starts its backoff anew after 10 s
        bench.add(what, rival.name, "ms", seen, note="as inspect shows it")
        rival.remove(["heal"])


def commands(bench: Bench) -> None:
    """How long commands take that only look."""
    stead = bench.stead
    stead.declare(10)
    stead.start_agent()
    try:
        for verb in ("ps", "status", "history"):
            values = [_timed(stead.words(verb), {}) for _ in range(bench.runs)]
            bench.add(f"command: {verb}, 10 containers", "stead", "ms", values, target=150)
        stead.declare(0)
        until(lambda: not stead.states(), pause=0.1)
    finally:
        stead.stop_agent()
    for rival in bench.rivals:
        names = [f"c{number}" for number in range(10)]
        for name in names:
            rival.run(name)
        values = [_timed(rival.command("ps"), rival.environment) for _ in range(bench.runs)]
        bench.add("command: ps, 10 containers", rival.name, "ms", values)
        rival.remove(names)


def _timed(words: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(words, env={**os.environ, **environment}, capture_output=True, timeout=60)
    return (time.perf_counter() - begin) * 1e3


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "one": one,
    "hundred": hundred,
    "nothing": nothing,
    "idle": idle,
    "heal": heal,
    "logs": logs,
    "probing": probing,
    "commands": commands,
    "pull": pull,
    "life": life,
    "listing": listing,
    "build": build,
    "names": names,
    "ports": ports,
    "repair": repair,
    "networks": networks,
}
