"""Effects: how long containers take that people make: `run --rm` of true, exec, and the stop of a hundred."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from agent import calls
from benchmarks.stead import COMMAND, IMAGE
from runtime import attend
from runtime.local import LocalRuntime
from runtime.shim import client

if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

HUNDRED = 100
#: seconds between two containers; a command takes a third of that to begin
PAUSE = 0.2
#: ends at once when it is asked to
_OBEYS = ("sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1000 & wait $!; done")
_TABLE = {"command": ["true"], "restart": "no"}


def life(bench: Bench) -> None:
    """The whole command beside an agent, and what of it is the agent's."""
    bench.stead.declare(0)
    bench.stead.start_agent()
    try:
        words = bench.stead.words
        own = _times(bench.runs, [*COMMAND, "--version"])
        bench.add("start of the command alone", "stead", "ms", own)
        python = _times(bench.runs, [sys.executable, "-c", "pass"])
        bench.add("start of Python alone", "stead", "ms", python)
        whole = _times(bench.runs, words("run", "--rm", IMAGE, "true"))
        bench.add("run --rm of true, with network", "stead", "ms", whole)
        subprocess.run(words("run", "-d", "--name", "host", IMAGE, "sleep", "100000"), check=True)
        bench.add("exec of true", "stead", "ms", _times(bench.runs, words("exec", "host", "true")))
        inside = [_exec(bench) for _ in range(bench.runs)]
        bench.add("exec of true, in the agent", "stead", "ms", inside, target=15)
        subprocess.run(words("rm", "-f", "host"), check=True, capture_output=True)
        bench.add("stop of a hundred that obey", "stead", "s", [_stop(words)], target=1.5)
    finally:
        bench.stead.stop_agent()
    for what, stays in (("", True), (" (no place waits)", False)):
        with closing(bench.stead.open(stays=stays)) as runtime:
            _once(runtime)
            values = [_once(runtime, PAUSE) for _ in range(bench.runs)]
        bench.add(f"create, start and remove, in the agent{what}", "stead", "ms", values, target=20)
    for rival in bench.rivals:
        environment = rival.environment

        def command(*words: str, rival: object = rival) -> list[str]:
            return list(rival.command(*words))  # type: ignore[attr-defined]

        run = command("run", "--rm", *rival.options, IMAGE, "true")
        bench.add("run --rm of true, with network", rival.name, "ms", _times(bench.runs, run, environment))
        rival.run("host")
        exec_ = command("exec", "host", "true")
        bench.add("exec of true", rival.name, "ms", _times(bench.runs, exec_, environment))
        rival.remove(["host"])
        bench.add(
            "stop of a hundred that obey", rival.name, "s", [_stop(command, rival.options, environment)]
        )


def _times(runs: int, words: Sequence[str], environment: Mapping[str, str] | None = None) -> list[float]:
    """Milliseconds of a command, the first one left out."""
    found = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        subprocess.run(words, env=environment, check=True, capture_output=True, timeout=120)
        found.append((time.perf_counter() - begin) * 1e3)
    return found[1:]


def _once(runtime: LocalRuntime, pause: float = 0.0) -> float:
    """The agent's part of `run --rm`; that the program ends is not in it. Before it nothing is asked for
    `pause` seconds."""
    time.sleep(pause)
    begin = time.perf_counter()
    asked = {"image": IMAGE, "table": _TABLE, "auto_remove": "attended"}
    name = calls.perform(runtime, "create", asked)["id"]
    calls.perform(runtime, "start", {"name": name})
    took = time.perf_counter() - begin
    while client.read_exit(runtime.paths.container(name)) is None:
        time.sleep(0.001)
    begin = time.perf_counter()
    calls.perform(runtime, "remove", {"name": name, "volumes": True})
    return (took + time.perf_counter() - begin) * 1e3


def _exec(bench: Bench) -> float:
    """What the shim does of an exec, asked by a process that is there already."""
    begin = time.perf_counter()
    record = attend.find(bench.stead.paths, "host")
    process = attend.exec_process(bench.stead.paths, record, attend.ExecOptions(("true",), {}))
    with client.exec_process(bench.stead.paths.live(record.id), process) as session:
        session.wait()
    return (time.perf_counter() - begin) * 1e3


def _stop(
    command: Callable[..., list[str]],
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> float:
    """Seconds of one `stop` of a hundred containers."""
    names = [f"s{number}" for number in range(HUNDRED)]
    for name in names:
        run = command("run", "-d", "--network", "none", "--name", name, *options, IMAGE, *_OBEYS)
        subprocess.run(run, env=environment, check=True, capture_output=True, timeout=120)
    time.sleep(1.0)  # until each of them has its trap
    begin = time.perf_counter()
    subprocess.run(command("stop", *names), env=environment, check=True, capture_output=True, timeout=300)
    took = time.perf_counter() - begin
    removal = command("rm", "-f", *names)
    subprocess.run(removal, env=environment, check=True, capture_output=True, timeout=300)
    return took
