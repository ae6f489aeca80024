"""Effects: how long a container that fails its probe is down."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.stead import until
from runtime.wishes import ProbeRequest, RestartRequest

if TYPE_CHECKING:
    from benchmarks.scenarios import Bench

#: Seconds between two probes.
INTERVAL = 1.0
SCRIPT = "rm -f /tmp/down; exec sleep 100000"
WHAT = "failing probe, running again"


def probing(bench: Bench) -> None:
    """From what makes the probe fail until the program was exec'ed anew; probes come once a second, and the
    program takes no notice of its stop signal. Docker restarts nothing for that, and podman, whose probes are
    timers of systemd, probes nothing where there is none."""
    probe = ProbeRequest(shell="test ! -e /tmp/down", interval=INTERVAL, start_interval=0.1, retries=1)
    asked = replace(
        bench.stead.request("p"),
        command=("sh", "-c", SCRIPT),
        probe=probe,
        restart=RestartRequest("always", initial=0.01, max=0.01),
        stop_grace_period=10.0,
    )
    values = []
    with closing(bench.stead.open()) as runtime:
        runtime.create_container(asked)
        runtime.start_container(asked.name)
        for number in range(min(5, bench.runs)):
            until(lambda: bench.stead.states()[0]["health"] == "healthy")
            (state,) = bench.stead.states()
            down = bench.stead.paths.rootfs(str(state["id"])) / "tmp/down"
            time.sleep(INTERVAL * (number + 1) / 7)  # somewhere between two probes
            began = time.time()
            down.touch()
            until(lambda began=began: float(str(bench.stead.states()[0]["started_at"])) > began)
            values.append((float(str(bench.stead.states()[0]["started_at"])) - began) * 1e3)
        runtime.remove_container(asked.name)
    note = f"interval {INTERVAL:g} s"
    bench.add(WHAT, "stead", "ms", values, target=INTERVAL * 1e3 + 50, note=note)
