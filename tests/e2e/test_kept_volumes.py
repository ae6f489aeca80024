"""Data in volumes outlives containers, and goes only where that is asked for. Black box, as root."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.e2e.conftest import Node, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

SPEC = """
[volume.data]

[container.writer]
image = "busy:1"
network_mode = "none"
stop_grace_period = "100ms"
command = ["sh", "-c", "echo %s >>/data/log; sleep 1000"]
volumes = ["data:/data"]
"""


def test_a_volume_outlives_its_containers_and_a_down_without_volumes(node: Node) -> None:
    spec, data = node.specs / "shop.toml", node.base / "root" / "volumes" / "default" / "data" / "_data"
    kept: list[str] = []

    def holds_all() -> bool:
        return (data / "log").exists() and (data / "log").read_text().split() == kept

    for word, leave in (("first", "down"), ("second", "undeclared")):
        spec.write_text(SPEC % word)
        node.stead("apply", str(node.specs))
        kept.append(word)
        until(holds_all)
        if leave == "down":
            node.stead("down", str(node.specs))
            assert node.ps() == {}
        else:
            spec.write_text("[network.other]\n")
            node.stead("apply", str(node.specs))
        assert holds_all(), leave
    node.stead("down", str(node.specs), "--volumes")
    assert not data.exists()


def test_what_was_backed_up_is_there_again_on_a_machine_that_has_nothing(node: Node) -> None:
    spec = node.specs / "shop.toml"
    spec.write_text(SPEC % "first")
    node.stead("apply", str(node.specs))
    data = node.base / "root" / "volumes" / "default" / "data" / "_data"
    until((data / "log").exists)
    (node.base / "to").mkdir()
    told = node.stead("volume", "backup", "data", "-o", f"{node.base}/to/")
    assert "default/writer stood still for" in told
    (backup,) = (node.base / "to").iterdir()
    node.stead("down", str(node.specs), "--volumes")
    assert not data.exists()
    assert "as default/data was at" in node.stead("volume", "restore", "default/data", str(backup))
    spec.write_text(SPEC % "second")
    node.stead("apply", str(node.specs))
    until(lambda: (data / "log").read_text() == "first\nsecond\n")
    refused = node.stead("volume", "restore", "data", str(backup), code=1)
    assert "used by default/writer (stop them first, or add --stop)" in refused
    node.stead("volume", "restore", "data", str(backup), "--stop", "--force")
    until(lambda: (data / "log").read_text() == "first\nsecond\n")


def test_a_change_that_would_leave_data_behind_is_refused_with_its_place(node: Node) -> None:
    spec = node.specs / "shop.toml"
    spec.write_text(SPEC % "first")
    node.stead("apply", str(node.specs))
    data = node.base / "root" / "volumes" / "default" / "data" / "_data"
    until((data / "log").exists)
    options = '[volume.data]\ndriver_opts = { type = "tmpfs" }\n'
    spec.write_text((SPEC % "first").replace("[volume.data]\n", options) + "[volume.other]\n")
    told = node.stead("apply", str(node.specs), code=1)
    assert "the spec wants a mount of type tmpfs (shop.toml:2); back it up" in told
    assert (data / "log").read_text() == "first\n"
    assert (data.parents[1] / "other").exists(), "others converge"
