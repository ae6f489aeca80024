"""A clock that is set: time that matters is counted from the boot, and time that is shown is the clock's."""

from __future__ import annotations

import pytest

from tests.vm.machine import Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(800, func_only=True)]

DAY = 86_400


def test_a_clock_that_jumps_restarts_nobody_and_healing_goes_on(node: Node) -> None:
    node.settle()
    booted = int(float(node.run("date +%s")) - float(node.run("cut -d ' ' -f 1 /proc/uptime")))
    try:
        for jump in (400 * DAY, -401 * DAY):
            before, ticks = node.ps(), len(node.ticks()[-1])
            node.run(f"date -s @$(($(date +%s) + {jump}))")
            node.until(lambda ticks=ticks: len(node.ticks()[-1]) > ticks, "output goes on")  # type: ignore[misc]
            node.settle()
            after = node.ps()
            assert {name: row["pid"] for name, row in after.items()} == {
                name: row["pid"] for name, row in before.items()
            }
            web = after["web"]
            node.run(f"kill -9 {web['pid']}")
            node.until(
                lambda web=web: (
                    (row := node.ps()["web"])["restarts"] == web["restarts"] + 1  # type: ignore[misc]
                    and row["phase"] == "running"
                ),
                "it runs again",
            )
            assert node.run("curl -sf --max-time 20 http://127.0.0.1:8080/") == "well\n"
        node.run("systemctl restart stead")
        node.settle()
    finally:
        node.run(f"date -s @$(({booted} + $(cut -d . -f 1 /proc/uptime)))")
        node.settle()
