"""Volumes and mounts as specs ask for them: what is refused, what others make, what follows a container."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from runtime.linux import mounts
from tests.e2e.conftest import Node, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

COMMON = 'image = "busy:1"\nnetwork_mode = "none"\nstop_grace_period = "100ms"\n'
PART = '{ subpath = "not/there" }'
SLEEP = 'command = ["sleep", "1000"]\n'


def volumes(node: Node) -> dict[str, dict[str, object]]:
    names = node.stead("volume", "ls", "-q").split()
    return (
        {item["Name"]: item for item in json.loads(node.stead("volume", "inspect", *names))} if names else {}
    )


def place(node: Node, table: str) -> str:
    lines = (node.specs / "shop.toml").read_text().splitlines()
    return f"shop.toml:{lines.index(f'[{table}]') + 1}"


def test_what_the_machine_refuses_is_said_with_its_line_and_others_converge(node: Node) -> None:
    (node.specs / "shop.toml").write_text(
        f"""
[volume.bad]
driver_opts = {{ type = "tmpfs", o = "sise=1m" }}

[volume.good]
driver_opts = {{ type = "tmpfs", o = "size=1m" }}

[container.bad]
{COMMON}{SLEEP}volumes = ["bad:/data"]

[container.bind]
{COMMON}{SLEEP}volumes = [{{ type = "bind", source = "/nowhere/at/all", target = "/data" }}]

[container.part]
{COMMON}{SLEEP}volumes = [{{ type = "volume", source = "good", target = "/x", volume = {PART} }}]

[container.good]
{COMMON}{SLEEP}volumes = ["good:/data"]
"""
    )
    said = node.stead("apply", str(node.specs), code=1)
    refused = [line for line in said.splitlines() if "volume default/bad: cannot mount volume" in line][-1]
    assert "unknown parameter 'sise'" in refused.lower() and f"({place(node, 'volume.bad')})" in refused
    assert "container default/bad: waits for volume default/bad" in said
    for name, cause in (
        ("bind", "source /nowhere/at/all does not"),
        ("part", "has no not/there"),
    ):
        told = [line for line in said.splitlines() if cause in line][-1]
        assert f"({place(node, f'container.{name}')})" in told
    phases = node.phases()
    assert phases["default/good"] == "running" and "default/bad" not in phases
    assert mounts.is_mounted(node.base / "root/volumes/default/good/_data")
    assert node.stead("validate", str(node.specs)), "it is no mistake of the spec"


def test_an_external_volume_is_waited_for_used_and_never_removed(node: Node) -> None:
    (node.specs / "shop.toml").write_text(
        f"""
[volume.pictures]
external = true

[container.web]
{COMMON}command = ["sh", "-c", "echo new >/p/new; sleep 1000"]
volumes = ["pictures:/p"]
"""
    )
    said = node.stead("apply", str(node.specs), code=1)
    assert (
        "volume pictures: does not exist, and is external (shop.toml:2): stead volume create pictures" in said
    )
    node.stead("volume", "create", "pictures")
    node.stead("apply", str(node.specs))
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
    found = volumes(node)["pictures"]
    assert (found["Source"], found["Users"]) == ("unmanaged", ["default/web"])
    assert "used by default/web" in node.stead("volume", "rm", "pictures", code=1)
    until((Path(str(found["Mountpoint"])) / "new").exists)
    node.stead("down", str(node.specs), "--volumes")
    assert (Path(str(found["Mountpoint"])) / "new").exists(), "it is somebody else's"
    node.stead("volume", "rm", "pictures")


def test_anonymous_volumes_follow_their_container_and_images_are_mounted(node: Node) -> None:
    spec = node.specs / "shop.toml"
    text = f"""
[container.db]
{COMMON}environment = {{ LEVEL = "one" }}
command = ["sh", "-c", "echo $$LEVEL >>/data/log; cat /tools/bin/busybox >/dev/null && sleep 1000"]
volumes = ["/data", {{ type = "image", source = "tools:1", target = "/tools" }}]
"""
    tools = node.base / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin/busybox").write_text("one")
    node.stead("image", "import", str(tools), "tools:1")
    spec.write_text(text)
    node.stead("apply", str(node.specs))
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
    ((name, before),) = volumes(node).items()
    log = Path(str(before["Mountpoint"])) / "log"
    until(log.exists)
    assert (before["Anonymous"], before["Container"], before["Source"]) == (True, "default/db", "shop")
    spec.write_text(text.replace('"one"', '"two"'))
    node.stead("apply", str(node.specs))
    assert list(volumes(node)) == [name]
    until(lambda: log.read_text().split() == ["one", "two"])

    (tools / "bin/busybox").write_text("another")
    node.stead("image", "import", str(tools), "tools:1")
    assert "image tools:1, which it mounts, went from" in node.stead("plan", str(node.specs), code=2)
    node.stead("apply", str(node.specs))
    until(lambda: log.read_text().split() == ["one", "two", "two"])
    assert "default/db" in node.stead("image", "rm", "tools:1", code=1)

    spec.write_text("[network.other]\n")
    node.stead("apply", str(node.specs))
    left = volumes(node)[name]
    assert (left["Anonymous"], left["Container"]) == (True, ""), "no commit removes data"
    assert log.read_text().split() == ["one", "two", "two"]
    node.stead("image", "rm", "tools:1")
    node.stead("volume", "prune", "--force")
    assert volumes(node) == {}
