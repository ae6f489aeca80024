"""The low-level runtime on pure cgroup v2, with a directory of its own and with a scope of systemd's."""

from __future__ import annotations

import json

import pytest

from tests.vm.machine import Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(800, func_only=True)]

BUNDLE = """
rm -rf /root/oci; mkdir -p /root/oci/rootfs/bin; cd /root/oci
cp "$(command -v busybox)" rootfs/bin/busybox
for applet in sh cat sleep mknod dd head; do ln -s busybox rootfs/bin/$applet; done
stead-oci spec
python3 - <<'P'
import json
config = json.load(open("config.json"))
config["process"].update(terminal=False, rlimits=[], args=["sh", "-c", "sleep 1000"])
config["process"]["capabilities"] = {k: ["CAP_MKNOD"] for k in ("bounding", "effective", "permitted")}
config["linux"]["cgroupsPath"] = "%s"
config["linux"]["resources"].update(
    memory={"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
    cpu={"shares": 512, "quota": 50000, "period": 100000},
    pids={"limit": 40},
)
json.dump(config, open("config.json", "w"))
P
"""
FILES = ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "pids.max")
WANTED = [str(64 << 20), str(32 << 20), str(32 << 20), "50000 100000", "20", "40"]


def limits(node: Node, directory: str) -> list[str]:
    return node.run(f"cd /sys/fs/cgroup/{directory}; cat {' '.join(FILES)}").splitlines()


def test_limits_devices_and_the_freezer_are_those_of_cgroup_v2(node: Node) -> None:
    node.run(BUNDLE % "/ocitest/one")
    node.run("cd /root/oci; stead-oci run -d one </dev/null >/dev/null 2>&1")
    assert limits(node, "ocitest/one") == WANTED
    made = "mknod /dev/a b 254 0; dd if=/dev/a count=1 2>&1 | head -n 1"
    assert "Operation not permitted" in node.run(f"stead-oci exec one sh -c '{made}'")
    node.run("stead-oci pause one")
    assert json.loads(node.run("stead-oci state one"))["status"] == "paused"
    node.run("stead-oci resume one; stead-oci update --memory 83886080 --memory-swap 100663296 one")
    assert limits(node, "ocitest/one")[:2] == [str(80 << 20), str(16 << 20)]
    node.run(
        "stead-oci delete --force one; rmdir /sys/fs/cgroup/ocitest; ls -d /sys/fs/cgroup/ocitest", code=2
    )


def test_a_scope_of_systemd_has_the_limits_and_keeps_them(node: Node) -> None:
    node.run(BUNDLE % "machine.slice:ocitest:two")
    node.run("cd /root/oci; stead-oci --systemd-cgroup run -d two </dev/null >/dev/null 2>&1")
    directory = "machine.slice/ocitest-two.scope"
    assert limits(node, directory) == WANTED
    node.run("systemctl daemon-reload")
    assert limits(node, directory) == WANTED
    node.run("stead-oci update --memory 83886080 --memory-swap 100663296 --pids-limit 77 two")
    node.run("systemctl daemon-reload")
    assert limits(node, directory)[:1] + limits(node, directory)[-1:] == [str(80 << 20), "77"]
    node.run("stead-oci delete --force two")
    node.until(lambda: node.run(f"ls /sys/fs/cgroup/{directory}", code=None).count("No such file"), "its end")
    assert node.run("systemctl --failed --no-legend") == ""
