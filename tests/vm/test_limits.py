"""Limits that bite on pure cgroup v2, how an end by them is told, and limits that were changed by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.machine import Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(800, func_only=True)]

LIMITS = """
project = "shop"

[container.hog]
image = "busy:1"
command = ["tail", "/dev/zero"]
memory = "16MiB"
restart = "no"

[container.victim]
image = "busy:1"
command = ["sleep", "100000"]
memory = "16MiB"
restart = "no"

[container.parent]
image = "busy:1"
command = ["sh", "-c", "tail /dev/zero; echo its child ended: $$?; exec sleep 100000"]
memory = "16MiB"

[container.spin]
image = "busy:1"
command = ["sh", "-c", "while :; do :; done"]
cpus = 0.2
stop_grace_period = "100ms"

[container.few]
image = "busy:1"
command = ["sleep", "100000"]
pids = 8

[container.many]
image = "busy:1"
command = ["sleep", "100000"]
cpus = 0.5
cpu_weight = 300
cpuset = "1"
memory = "64MiB"
memory_reservation = "32MiB"
pids = 40
io = [{ device = "/dev/vda", write_bps = "1MiB" }]
devices = ["/dev/vda:/dev/disk:r"]
"""


@pytest.fixture(scope="module", autouse=True)
def limited(node: Node) -> Iterator[None]:
    node.commit({"limits.toml": LIMITS})
    node.settle("hog")
    yield
    assert set(node.retire("limits.toml")) == {"web", "tick"}


def test_the_kernel_has_each_limit_as_the_spec_says(node: Node) -> None:
    row = node.ps()["many"]
    files = ["cpu.max", "cpu.weight", "cpuset.cpus", "memory.max", "memory.low", "pids.max", "io.max"]
    found = dict(zip(files, node.cgroup(row["id"], *files), strict=True))
    device = node.run("stat -c '%Hr:%Lr' /dev/vda").strip()
    assert found == {
        "cpu.max": "50000 100000",
        "cpu.weight": "300",
        "cpuset.cpus": "1",
        "memory.max": str(64 << 20),
        "memory.low": str(32 << 20),
        "pids.max": "40",
        "io.max": f"{device} rbps=max wbps={1 << 20} riops=max wiops=max",
    }
    assert node.run("stead exec many cat /proc/self/status").count("Cpus_allowed_list:\t1") == 1


def test_an_end_for_want_of_memory_is_told_apart_and_counted(node: Node) -> None:
    """Both are killed with signal 9; only one of them by the kernel, for memory."""
    node.until(lambda: node.phases()["hog"] == "exited", "hog is killed")
    node.run(f"kill -9 {node.ps()['victim']['pid']}")
    node.until(lambda: node.phases()["victim"] == "exited", "victim is killed")
    found = node.ps()
    assert [found[name]["exit_code"] for name in ("hog", "victim")] == [137, 137]
    assert [found[name]["oom_killed"] for name in ("hog", "victim")] == [True, False]
    said = "container shop/hog exited with code 137, killed because it used too much memory"
    node.until(lambda: said in node.run("stead status", code=None), "hog's end is told")
    # victim's is told there, too
    lines = node.run("stead status; stead explain victim", code=None).splitlines()
    assert not any("victim" in line and "memory" in line for line in lines)


def test_a_child_that_is_killed_for_memory_is_counted_and_the_container_lives(node: Node) -> None:
    node.until(lambda: "its child ended: 137" in node.run("stead logs parent"), "the child is killed")
    assert node.ps()["parent"]["restarts"] == 0

    def counted() -> bool:
        series = {name: value for name, value in node.metrics().items() if name.startswith("container_oom_")}
        return any('name="shop/parent"' in name and value == 1 for name, value in series.items())

    node.until(counted, "the kill is in the metrics")


def test_a_busy_loop_gets_its_share_of_the_processor_only(node: Node) -> None:
    path = f"/sys/fs/cgroup/stead.slice/{node.ps()['spin']['id']}/cpu.stat"
    script = f"cut -d ' ' -f 1 /proc/uptime; cat {path}; sleep 5; cut -d ' ' -f 1 /proc/uptime; cat {path}"
    words = node.run(script).split()
    times = [float(words[index - 1]) for index, word in enumerate(words) if word == "usage_usec"]
    used = [int(words[index + 1]) / 1e6 for index, word in enumerate(words) if word == "usage_usec"]
    share = (used[1] - used[0]) / (times[1] - times[0])
    assert 0.05 < share < 0.3
    assert int(words[-words[::-1].index("throttled_usec")]) > 0


def test_programs_in_a_container_stop_at_its_number_of_processes(node: Node) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait"
    assert "can't fork" in node.run(f"stead exec few sh -c '{script}'", code=None)
    id = node.ps()["few"]["id"]
    events, now = node.cgroup(id, "pids.events", "pids.current")
    assert events.startswith("max ") and int(events.split()[1]) > 0
    assert int(now) <= 8
    assert node.phases()["few"] == "running"


def test_writing_is_slowed_to_the_limit_of_the_device(node: Node) -> None:
    """4 MiB at 1 MiB a second. Without the limit even the emulator writes them in a moment."""
    write = "dd if=/dev/zero of=/tmp/x bs=1M count=4 conv=fsync"
    script = f"s=$(date +%s); {write}; echo took $(($(date +%s)-s)); rm /tmp/x"
    text = node.run(f"stead exec many sh -c '{script}'")
    assert int(text.split("took ")[1].split()[0]) >= 3


def test_a_device_may_be_used_as_far_as_it_was_given(node: Node) -> None:
    assert node.run("stead exec many sh -c 'head -c 4096 /dev/disk | wc -c'", code=None).split()[0] == "4096"
    text = node.run("stead exec many sh -c 'echo x >/dev/disk'", code=None)
    assert "Operation not permitted" in text


def test_what_is_changed_by_hand_is_put_right_and_nothing_is_restarted(node: Node) -> None:
    before = node.ps()
    id, since = before["many"]["id"], node.now()
    node.run(
        f"""
cd /sys/fs/cgroup/stead.slice/{id}
echo max >memory.max; echo max >cpu.max; echo 1000 >pids.max; echo 0-1 >cpuset.cpus
echo 0 >/proc/sys/net/ipv4/ip_forward
nft flush ruleset
"""
    )

    def mended() -> bool:
        limits = node.cgroup(id, "memory.max", "cpu.max", "pids.max", "cpuset.cpus")
        forward = node.run("cat /proc/sys/net/ipv4/ip_forward").strip()
        return limits == [str(64 << 20), "50000 100000", "40", "1"] and forward == "1"

    node.until(mended, "limits and forwarding are as declared")
    node.settle("hog", "victim")
    assert node.run("curl -sf --max-time 20 http://127.0.0.1:8080/") == "well\n"
    assert node.ps() == before
    said = node.run(f"journalctl -u stead -o cat --no-pager --since '{since}'; stead explain many")
    assert "net.ipv4.ip_forward is 0" in said and "memory is 0 instead of 67108864" in said
