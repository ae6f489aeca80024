"""Reboots and power cuts: everything comes back by itself, and nothing is half written."""

from __future__ import annotations

import pytest

from tests.vm.machine import Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(1200, func_only=True)]

#: names of directories and rows that must be the same set, one line each: kind, then ids. A place that waits
#: for the next container that a person makes is waited for to go.
INVENTORY = """
for second in $(seq 120); do [ -e /run/stead/spare ] || break; sleep 1; done
echo home $(ls /var/lib/stead/containers)
echo live $(ls /run/stead/containers)
echo cgroup $(cd /sys/fs/cgroup/stead.slice && ls -d */ | tr -d / | grep -vx -e shims -e names)
echo mounted $(grep -o '/run/stead/containers/[0-9a-f]*/rootfs' /proc/self/mountinfo | cut -d / -f 5)
echo netns $(grep -o '/run/stead/containers/[0-9a-f]*/netns' /proc/self/mountinfo | cut -d / -f 5)
"""

INTEGRITY = """
for name in stead journal; do
    /opt/stead/venv/bin/python -c "
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute('pragma integrity_check').fetchone()[0])" /var/lib/stead/$name.db
done
find /var/lib/stead -path '*/upper' -prune -o -path '*/layers/*/*' -prune -o \\
    \\( -name '*.tmp' -o -name '*.new' -o -name '*.partial' -o -name '.tmp*' \\) -print
"""


#: name -> policy, whether it is stopped by hand, and its phase after a reboot (docs/containers.md)
BY_HAND = {
    "once": ("no", False, "lost"),
    "always": ("always", True, "running"),
    "ran": ("unless-stopped", False, "running"),
    "stopped": ("unless-stopped", True, "stopped"),
}


def many(image: str) -> str:
    containers = [
        f'[container.c{n}]\nimage = "{image}"\ncommand = ["sleep", "100000"]\nports = ["810{n}:80"]\n'
        f'volumes = ["v{n}:/data"]\nstop_grace_period = "100ms"\n[volume.v{n}]\n'
        for n in range(4)
    ]
    return 'project = "shop"\n' + "\n".join(containers)


def check_inventory(node: Node) -> None:
    """Everything that exists belongs to a container, and no container lacks anything."""
    ids = {row["id"] for row in node.ps().values()}
    for line in node.run(INVENTORY).splitlines():
        kind, *found = line.split()
        assert set(found) == ids, kind
    links = node.run("ip -o link show type veth").splitlines()
    assert len(links) == len(ids)
    assert node.run(INTEGRITY).split() == ["ok", "ok"]
    assert all(run == list(range(len(run))) for run in node.ticks()), "the log is as tick wrote it"


def test_a_reboot_ends_containers_in_order_and_brings_all_back_without_the_repository(node: Node) -> None:
    node.settle()
    for name, (policy, stopped, _) in BY_HAND.items():
        node.run(f"stead run -d --name {name} --restart {policy} busy:1 sleep 100000")
        node.run(f"stead stop -t 0 {name}" if stopped else ":")
    before = node.ps()
    node.run("mv /srv/shop.git /srv/away.git")
    node.reboot()
    phases = {"web": "running", "tick": "running", **{name: phase for name, (_, _, phase) in BY_HAND.items()}}
    node.until(lambda: node.phases() == phases, "what should run does, and nothing else")
    after = node.ps()
    assert {name: row["id"] for name, row in after.items()} == {n: row["id"] for n, row in before.items()}
    assert node.run("curl -sf --max-time 20 http://127.0.0.1:8080/") == "well\n"
    node.until(lambda: node.status()["sources"][0]["fetch_error"], "the repository is missed")
    assert "cannot fetch /srv/shop.git" in node.run("stead status", code=None)
    node.run("mv /srv/away.git /srv/shop.git")
    node.until(lambda: node.status()["sources"][0]["fetch_error"] == "", "the repository is found again")
    node.settle()
    said = node.run("stead logs tick").split("\n")
    assert said[said.index("bye") + 1] == "tick 0"
    last = node.run("journalctl -b -1 --no-pager -o cat")
    assert "ended 4 containers" in last and "Failed unmounting" not in last
    node.run(f"stead rm -f {' '.join(BY_HAND)}")
    check_inventory(node)


def test_a_power_cut_in_the_middle_of_an_apply_leaves_nothing_half_done(node: Node) -> None:
    node.settle()
    runs = len(node.ticks())
    node.run("head -c 2000000 /dev/urandom >image/big && sync image/big")
    sum = node.run("stead image import image busy:2 >/dev/null; md5sum <image/big").split()[0]
    node.commit({"many.toml": many("busy:2")})
    node.run("until [ $(ls /run/stead/containers | wc -l) -ge 4 ]; do sleep 0.05; done")
    node.vm("cut")
    node.vm("up", "--no-wait")
    node.until(node.answers, "the machine is up again")
    # and once more while everything is being brought back
    node.run("until [ $(ls /run/stead/containers 2>/dev/null | wc -l) -ge 2 ]; do sleep 0.05; done")
    node.vm("cut")
    node.vm("up")
    assert len(node.settle()) == 6
    node.until(lambda: set(node.phases().values()) == {"running"}, "all containers run")
    check_inventory(node)
    assert len(node.ticks()) in (runs + 1, runs + 2)
    assert node.run("stead exec c3 md5sum /big").split()[0] == sum
    assert set(node.retire("many.toml")) == {"web", "tick"}
    check_inventory(node)
