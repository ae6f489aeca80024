"""Effects: how fast output is taken, and what processor time that costs. Each engine keeps files of 10 MB."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.rivals import Engine
from benchmarks.stead import cpu_seconds, until
from specs.values import MountPoint

if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

LINE = b"2026-01-02T03:04:05Z INFO handled method=GET path=/api/v1/items status=200 duration=1.5ms id=%07d\n"
#: Bytes of the file that is written to standard output, and how often: rivals are ten times as slow.
FILE, TIMES, RIVAL_TIMES = 64 << 20, 16, 2
SCRIPT = (
    "i=0; while [ $i -lt {times} ]; do cat /lines/file; i=$((i+1)); done; touch /lines/done; sleep 100000"
)
WHAT, COST = "output of 1 GB taken", "processor time for 1 GB of output"


def logs(bench: Bench) -> None:
    place = bench.stead.base / "lines"
    place.mkdir(exist_ok=True)
    lines = b"".join(LINE % number for number in range(10_000))
    with (place / "file").open("wb") as file:
        for _ in range(FILE // len(lines)):
            file.write(lines)
    size = (place / "file").stat().st_size
    runs = min(3, bench.runs)
    taken = [_stead(bench, place, number) for number in range(runs)]
    scale = 1e9 / (size * TIMES)
    bench.add(WHAT, "stead", "s", [seconds * scale for seconds, _ in taken], target=2.2)
    bench.add(COST, "stead", "s", [cpu * scale for _, cpu in taken], note="of its supervisor")
    for rival in bench.rivals:
        options = ("--log-opt", f"max-size={10 << 20 if rival.name == 'podman' else '10m'}")
        if rival.name == "docker":
            options += ("--log-driver", "json-file", "--log-opt", "max-file=3")
        seen = [_rival(rival, place, f"w{number}", options) for number in range(runs)]
        scale = 1e9 / (size * RIVAL_TIMES)
        bench.add(WHAT, rival.name, "s", [seconds * scale for seconds, _ in seen], note=" ".join(options))
        bench.add(COST, rival.name, "s", [cpu * scale for _, cpu in seen], note="of all its processes")
    (place / "file").unlink()


def _stead(bench: Bench, place: Path, number: int) -> tuple[float, float]:
    """Seconds until the last byte was written, and of processor time of the shim."""
    (place / "done").unlink(missing_ok=True)
    asked = bench.stead.request(f"w{number}")
    script = ("sh", "-c", SCRIPT.format(times=TIMES))
    mounts = (MountPoint("bind", str(place), "/lines"),)
    with closing(bench.stead.open()) as runtime:
        runtime.create_container(replace(asked, command=script, mounts=mounts))
        begin = time.perf_counter()
        runtime.start_container(asked.name)
        (state,) = bench.stead.states()
        until((place / "done").exists, pause=0.001)
        seconds = time.perf_counter() - begin
        cpu = cpu_seconds([int(str(state["shim_pid"]))])
        runtime.remove_container(asked.name)
    return seconds, cpu


def _rival(rival: Engine, place: Path, name: str, options: tuple[str, ...]) -> tuple[float, float]:
    (place / "done").unlink(missing_ok=True)
    before = _cpu(rival)
    begin = time.perf_counter()
    script = SCRIPT.format(times=RIVAL_TIMES)
    rival.run_script(name, script, "-v", f"{place}:/lines", *options)
    until((place / "done").exists, pause=0.005)
    seconds, cpu = time.perf_counter() - begin, _cpu(rival) - before
    rival.remove([name])
    return seconds, cpu


def _cpu(rival: Engine) -> float:
    """Of the engine's processes: their command lines name its directory."""
    pids = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and str(rival.base).encode() in Path("/proc", entry, "cmdline").read_bytes():
                pids.append(int(entry))
        except OSError:
            continue
    total = 0.0
    for pid in pids:
        try:
            total += cpu_seconds([pid])
        except OSError:
            continue
    return total
