"""What somebody takes away from running containers by hand comes back, and no healthy container is restarted.

The box is an island (tests.crash.conftest): the whole ruleset and the host's settings are the test's own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runtime.linux import mounts, pidfd
from runtime.linux.limits import Limits
from runtime.net import addresses, links
from runtime.net.dns.service import NameService
from runtime.shim import client
from tests.crash.agents import Agent
from tests.crash.box import Box, until
from tests.e2e.conftest import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

Row = dict[str, Any]


class Shop:
    """An agent on a box with a published web server and a neighbour, converged."""

    def __init__(self, box: Box) -> None:
        self.box, self.agent, self.port = box, Agent(box), Node.free_port()
        self.root = str(box.paths.root.resolve())
        (box.specs / "shop.toml").write_text(
            f"""
[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports = ["127.0.0.1:{self.port}:80"]
memory = "64MiB"
stop_grace_period = "100ms"

[container.next]
image = "busy:1"
command = ["sleep", "10000"]
stop_grace_period = "100ms"
"""
        )

    def begin(self) -> None:
        self.agent.start()
        until(self.agent.converged, "the agent converges")
        until(self.answers, "the container answers")

    def web(self) -> Row:
        return self.box.ps()["default/web"]

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1) as answer:
                return bool(answer.read() == b"well\n")
        except OSError:
            return False

    def touch(self) -> None:
        """A revision that changes nothing: the agent looks now, and not only when its period is over."""
        with (self.box.specs / "shop.toml").open("a") as file:
            file.write("#\n")

    def counted(self, kind: str) -> float:
        return self.agent.metric("stead_drift_total", kind=kind)


@pytest.fixture
def shop(island: Box) -> Iterator[Shop]:
    made = Shop(island)
    try:
        made.begin()
        yield made
    finally:
        made.agent.end()


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def no_bridge(shop: Shop, web: Row) -> None:
    (name,) = (name for name in links.links() if name.startswith(addresses.bridge_prefix(shop.root)))
    run("ip", "link", "delete", name)


def no_link(shop: Shop, web: Row) -> None:
    run("ip", "link", "delete", addresses.link_name(shop.root, web["id"], "default/default"))


def no_address(shop: Shop, web: Row) -> None:
    run("nsenter", f"--net={shop.box.paths.netns(web['id'])}", "ip", "address", "flush", "dev", "eth0")


def no_table(shop: Shop, web: Row) -> None:
    run("nft", "delete", "table", "inet", addresses.table_name(shop.root))


def no_ruleset(shop: Shop, web: Row) -> None:
    run("nft", "flush", "ruleset")


def no_port(shop: Shop, web: Row) -> None:
    run("nft", "flush", "map", "inet", addresses.table_name(shop.root), "published_at")


def no_cgroup(shop: Shop, web: Row) -> None:
    """A cgroup with processes in it cannot be removed: they are moved out first."""
    for top in shop.box.inventory.cgroups.roots():
        cgroup = Path(top, "stead.slice", web["id"])
        for pid in (cgroup / "cgroup.procs").read_text().split():
            Path(top, "cgroup.procs").write_text(pid)
        cgroup.rmdir()


def other_limits(shop: Shop, web: Row) -> None:
    shop.box.inventory.cgroups.apply(f"stead.slice/{web['id']}", Limits(memory=32 << 20, pids=7))


def no_rootfs(shop: Shop, web: Row) -> None:
    mounts.unmount(shop.box.paths.rootfs(web["id"]))


def no_netns(shop: Shop, web: Row) -> None:
    mounts.unmount(shop.box.paths.netns(web["id"]))


def no_forwarding(shop: Shop, web: Row) -> None:
    links.write_sysctl("ipv4/ip_forward", "0")


def no_name_server(shop: Shop, web: Row) -> None:
    state = NameService(shop.box.paths).state()
    assert state is not None and pidfd.kill(state.pid, state.start)


def no_names(shop: Shop, web: Row) -> None:
    (shop.box.paths.live(web["id"]) / "names.json").unlink()


#: what is done, and the kind of drift that it is counted as
DRIFT: list[tuple[Callable[[Shop, Row], None], str]] = [
    (no_bridge, "bridge"),
    (no_link, "link"),
    (no_address, "address"),
    (no_table, "firewall"),
    (no_ruleset, "firewall"),
    (no_port, "firewall"),
    (no_cgroup, "cgroup"),
    (other_limits, "limits"),
    (no_rootfs, "rootfs"),
    (no_netns, "netns"),
    (no_forwarding, "forwarding"),
    (no_name_server, "names"),
    (no_names, "names"),
]


def test_each_drift_is_repaired_and_counted_and_nothing_is_restarted(shop: Shop) -> None:
    before = shop.box.ps()
    for take, kind in DRIFT:
        counted = shop.counted(kind)
        take(shop, before["default/web"])
        shop.touch()
        until(lambda kind=kind, counted=counted: shop.counted(kind) > counted, f"{take.__name__} is seen")  # type: ignore[misc]
        until(lambda: shop.agent.converged() and shop.answers(), f"{take.__name__} is repaired")
        assert shop.box.ps() == before, take.__name__
        shop.box.settled()


def test_a_killed_name_server_is_back_at_once_and_nobody_is_restarted(shop: Shop) -> None:
    """Its death is heard: nothing waits for the agent's next look."""
    before, service = shop.box.ps(), NameService(shop.box.paths)
    for _ in range(3):
        dead = service.state()
        no_name_server(shop, before["default/web"])
        took = until(lambda dead=dead: service.state() not in (None, dead), "another one listens")  # type: ignore[misc]
        assert took < 5.0, "the periodic look comes after ten seconds"
        until(shop.agent.converged, "the agent knows")
        print(f"back after {took * 1e3:.0f} ms")
    assert shop.box.ps() == before


def test_all_drift_at_once_is_repaired_without_a_nudge(shop: Shop) -> None:
    """Within the agent's own period: nobody tells it. A look that had begun before it was taken repairs the
    bridge with the rest, without having seen that it was missing: then all is taken once more."""
    before = shop.box.ps()
    for _ in range(4):
        take_all(shop, before)
        if shop.counted("bridge") >= 1 and shop.agent.metric("stead_drift_total") >= 3:
            break
    assert shop.counted("bridge") >= 1, "it was taken first"
    assert shop.agent.metric("stead_drift_total") >= 3, "the rest may come back with what was seen besides"


def take_all(shop: Shop, before: dict[str, Row]) -> None:
    for take, _ in DRIFT:
        if take not in (no_link, no_table, no_port, other_limits):  # gone with what is taken besides
            take(shop, before["default/web"])
    until(shop.answers, "the port answers again", 25.0)
    done = (0, "nothing to do\n")
    until(lambda: shop.box.stead("plan", str(shop.box.specs)) == done, "all is repaired")
    until(shop.agent.converged, "the agent knows")
    assert shop.box.ps() == before
    shop.box.settled()


def test_a_killed_cgroup_or_shim_costs_one_run_and_no_more(shop: Shop) -> None:
    before = shop.box.ps()
    # each process once: Cgroups.kill goes on until none is left, and would meet those of the next run
    for pid in shop.box.inventory.cgroups.pids(f"stead.slice/{before['default/web']['id']}"):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: shop.web()["restarts"] == 1 and shop.answers(), "its shim starts it anew")
    state = client.read_state(shop.box.paths.live(before["default/web"]["id"]))
    assert state is not None
    os.kill(state.shim_pid, signal.SIGKILL)
    until(lambda: shop.counted("shim") == 1 and shop.agent.converged() and shop.answers(), "a new shim")
    after = shop.box.ps()
    assert after["default/web"]["id"] == before["default/web"]["id"]
    assert after["default/next"] == before["default/next"]
    shop.box.settled()
