"""The disk under the state directory is full, or turns read-only: the agent says so and goes on later."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import mounts
from runtime.shim import client
from tests.crash.agents import Agent
from tests.crash.box import Box, Nursery, busybox, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

#: failures that need a person are tried again after 5 s, 10 s, ...
PATIENCE = 90.0
COUNTER = """
[container.counter]
image = "busy:1"
command = ["sh", "-c", "i=0; while :; do echo $$i; i=$$((i+1)); usleep 10000; done"]
stop_grace_period = "100ms"
"""


def sleeper(name: str) -> str:
    return (
        f'[container.{name}]\nimage = "busy:1"\ncommand = ["sleep", "10000"]\nstop_grace_period = "100ms"\n'
    )


def opened(base: Path, nursery: Nursery) -> tuple[Box, Agent]:
    """A box whose root is mounted already, converged with the counter."""
    box = Box(base, nursery)
    box.well("image", "import", str(busybox(base / "image")), "busy:1")
    (box.specs / "shop.toml").write_text(COUNTER)
    agent = Agent(box)
    agent.start()
    until(agent.converged, "the agent converges")
    return box, agent


@pytest.fixture
def small(tmp_path: Path, nurseries: list[Nursery]) -> Iterator[tuple[Box, Agent]]:
    """A root of 16 MiB."""
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(root)], check=True)
    try:
        box, agent = opened(tmp_path, nurseries[0])
        yield box, agent
        agent.end()
        box.well("down", str(box.specs))
        assert box.inventory.strays() == []
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def fill(root: Path) -> Path:
    """Nothing more can be written below `root`."""
    ballast = root / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def test_a_full_disk_is_said_and_all_goes_on_when_there_is_room_again(
    small: tuple[Box, Agent],
) -> None:
    box, agent = small
    before = box.ps()
    ballast = fill(box.paths.root)
    (box.specs / "more.toml").write_text(sleeper("more"))
    until(lambda: "no space left" in agent.status()["sources"][0]["fetch_error"], "the source says so")
    assert agent.status()["sources"][0]["revision"] != agent.status()["sources"][0]["seen"]
    assert "no space left" in box.stead("status")[1]
    assert box.ps() == before  # and the containers go on

    ballast.unlink()
    until(lambda: "default/more" in box.ps() and agent.converged(), "the revision is taken", PATIENCE)
    box.settled()
    assert box.ps()["default/counter"] == before["default/counter"]
    lines = len(log(box))
    until(lambda: len(log(box)) > lines, "the log goes on")


def test_containers_wait_for_room_that_images_and_layers_took(small: tuple[Box, Agent]) -> None:
    """The revision still fits, what it asks for does not."""
    box, agent = small
    (box.specs / "more.toml").write_text(sleeper("more"))
    until(lambda: "default/more" in box.ps() and agent.converged(), "the second container runs")
    row = box.ps()["default/more"]
    ballast = fill(box.paths.root)
    os.kill(row["pid"], signal.SIGKILL)
    until(lambda: box.ps()["default/more"]["restarts"] == 1, "a restart needs no room")
    state = client.read_state(box.paths.live(row["id"]))
    assert state is not None
    os.kill(state.shim_pid, signal.SIGKILL)
    (found,) = agent.until_blocked("default/more", deadline=PATIENCE)  # a start does
    assert found["code"] == "disk-full" and "no space left" in found["reason"]
    until(lambda: agent.metric("stead_blocked", kind="container", code="disk-full") == 1, "it is counted")
    ballast.unlink()
    until(lambda: agent.converged() and not agent.status()["error"], "it starts", PATIENCE)
    assert box.ps()["default/more"]["phase"] == "running"


def log(box: Box) -> list[str]:
    return box.well("logs", "counter").splitlines()


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 that can be told to find itself damaged; the device's name for /sys/fs/ext4."""
    image, root = tmp_path / "disk", tmp_path / "root"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    root.mkdir()
    make = ["mkfs.ext4", "-q", "-F", str(image)]
    mount = ["mount", "-o", "loop,errors=remount-ro", str(image), str(root)]
    if shutil.which("mkfs.ext4") is None or subprocess.run(make, capture_output=True).returncode:
        pytest.skip("needs mkfs.ext4")
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine has no loop devices")
    yield tmp_path
    while mounts.is_mounted(root):
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_a_disk_that_turns_read_only_is_said_and_containers_go_on(
    breakable: Path, nurseries: list[Nursery]
) -> None:
    """The only cure of such a disk is a repair and a reboot; the second half is as after one."""
    box, agent = opened(breakable, nurseries[0])
    before = box.ps()
    device = next(mount.source for mount in mounts.table() if mount.target == str(box.paths.root))
    Path("/sys/fs/ext4", os.path.basename(device), "trigger_fs_error").write_text("1")
    (box.specs / "more.toml").write_text(sleeper("more"))
    until(lambda: "read-only" in agent.status()["sources"][0]["fetch_error"], "the source says so")
    assert box.ps() == before

    agent.kill()
    for row in before.values():  # the power goes
        box.kill(row["id"])
    end = time.monotonic() + 10
    while subprocess.run(["umount", str(box.paths.root)], capture_output=True).returncode:
        assert time.monotonic() < end, "the disk is still in use"
        time.sleep(0.05)
    disk = str(breakable / "disk")
    # it stays in use while anybody's copy of the mounts has it, such as a container that is just starting
    until(lambda: not subprocess.run(["losetup", "-j", disk], capture_output=True).stdout, "it is released")
    subprocess.run(["e2fsck", "-p", disk], capture_output=True)
    subprocess.run(["mount", "-o", "loop", disk, str(box.paths.root)], check=True)

    agent.start()
    until(agent.converged, "all comes back", PATIENCE)
    assert {row["phase"] for row in box.ps().values()} == {"running"} and len(box.ps()) == 2
    assert box.ps()["default/counter"]["id"] == before["default/counter"]["id"]
    agent.end()
    box.well("down", str(box.specs))
    assert box.inventory.strays() == []
