"""AppArmor as Debian brings it, on a kernel that has the module."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.vm.machine import Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(800, func_only=True)]

LABEL = "cat /proc/self/attr/current"
OURS = "stead-default (enforce)"
#: nothing but the profile stands in the way of a mount then
BARE = "--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
BUNDLE = """
rm -rf /root/oci; mkdir -p /root/oci/rootfs/bin; cd /root/oci
cp "$(command -v busybox)" rootfs/bin/busybox; ln -s busybox rootfs/bin/cat
stead-oci spec
python3 - <<'P'
import json
config = json.load(open("config.json"))
config["process"].update(terminal=False, rlimits=[], args=["cat", "/proc/self/attr/current"])
config["process"]["apparmorProfile"] = "%s"
json.dump(config, open("config.json", "w"))
P
stead-oci run armoured </dev/null
"""


@pytest.fixture(scope="module")
def armoured(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """With Debian's package, which is taken away again."""
    if node.run("cat /sys/module/apparmor/parameters/enabled", code=None).strip() != "Y":
        pytest.skip("the machine's kernel has no AppArmor")
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get, to fetch the package apparmor")
    place = tmp_path_factory.mktemp("apparmor")
    subprocess.run(["apt-get", "-qq", "download", "apparmor"], cwd=place, check=True, timeout=300)
    [package] = place.glob("*.deb")
    node.vm("push", str(package), "/root/apparmor.deb")
    node.run("dpkg -i apparmor.deb")
    try:
        yield node
    finally:
        node.run("stead rm -f worn; dpkg --purge apparmor; rm -rf apparmor.deb oci", code=None)


def test_programs_run_under_our_profile(armoured: Node) -> None:
    node = armoured
    assert node.run(f"stead run --rm busy:1 {LABEL}").strip() == OURS
    mount = "sh -c 'mount -t tmpfs x /tmp && echo mounted'"
    assert "mounted" not in node.run(f"stead run --rm {BARE} busy:1 {mount}", code=255)
    free = "--security-opt apparmor=unconfined"
    assert node.run(f"stead run --rm {BARE} {free} busy:1 {mount}").strip() == "mounted"
    assert node.run(f"stead run --rm {free} busy:1 {LABEL}").strip() == "unconfined"
    assert node.run(f"stead run --rm --privileged busy:1 {LABEL}").strip() == "unconfined"
    seen = node.run(
        "stead run --rm --pid host busy:1 sh -c 'kill -0 1 || head -c 9 /proc/1/environ'", code=None
    )
    assert seen.lower().count("permission denied") == 2, seen
    said = node.run("stead run --rm --security-opt apparmor=nope busy:1 true", code=125)
    assert "AppArmor profile nope: no such profile is loaded" in said


def test_the_low_level_runtime_gives_the_profile_that_a_bundle_names(armoured: Node) -> None:
    armoured.run(f"stead run --rm busy:1 {LABEL}")
    assert armoured.run(BUNDLE % "stead-default").splitlines()[-1] == OURS
    said = armoured.run(BUNDLE % "nope", code=1)
    assert "no profile is loaded that is called nope" in said


def test_a_profile_taken_away_at_any_moment_fails_no_probe(armoured: Node) -> None:
    """Between the look at the profile and the exec of the probe, too: twenty times in each interval."""
    node = armoured
    probe = f"--health-cmd '{LABEL}' --health-interval 1s --health-retries 1"
    node.run(f"stead run -d --restart always --name hunted {probe} busy:1 sleep 1000")
    shown = "stead inspect --format '{{.State.Health.Status}} {{.RestartCount}}' hunted"
    try:
        node.until(lambda: node.run(shown).split()[0] == "healthy", "it is healthy")
        remove = "printf stead-default > /sys/kernel/security/apparmor/.remove 2>/dev/null || true"
        node.run(f"for i in $(seq 200); do {remove}; sleep 0.05; done")
        assert node.run(shown).split() == ["healthy", "0"]
        node.until(lambda: node.run(f"stead exec hunted {LABEL}").strip() == OURS, "it has its profile")
    finally:
        node.run("stead rm -f hunted")


def test_a_profile_that_was_taken_away_keeps_no_container_from_healing(armoured: Node) -> None:
    """aa-remove-unknown(8) takes away what /etc/apparmor.d does not have, here while no agent lives."""
    node = armoured
    probe = "--health-cmd 'cat /proc/self/attr/current' --health-interval 1s --health-retries 1"
    node.run(f"stead run -d --restart always --name worn {probe} busy:1 sleep 1000")
    running = "stead inspect --format '{{.State.Pid}} {{.State.Health.Status}}' worn"
    node.until(lambda: node.run(running).split()[1] == "healthy", "it is healthy")
    before = node.run(running).split()[0]
    node.run("systemctl stop stead; aa-remove-unknown")
    try:
        node.run(f"kill -9 {before}")

        def healed() -> str:
            pid, health = node.run(running).split()
            return pid if pid not in ("0", before) and health == "healthy" else ""

        pid = node.until(healed, "it runs again and is healthy")
        assert node.run(f"cat /proc/{pid}/attr/current").strip() == OURS
        assert node.run(f"stead exec worn {LABEL}").strip() == OURS
    finally:
        node.run("systemctl start stead")
