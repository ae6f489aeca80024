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
