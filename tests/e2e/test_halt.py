"""`stead halt`: what a shutdown of the machine does to containers, and that it loses nothing."""

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


def test_halted_containers_end_in_order_and_are_still_wanted(node: Node) -> None:
    (node.specs / "polite.toml").write_text(
        """
[container.polite]
image = "busy:1"
command = ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo begun; while true; do sleep 0.05; done"]

[container.deaf]
image = "busy:1"
command = ["sleep", "100000"]
stop_grace_period = "100ms"
"""
    )
    node.stead("apply", str(node.specs))
    until(lambda: "begun" in node.stead("logs", "polite"))  # it has its handler
    before = node.ps()
    assert "ended 2 containers" in node.stead("halt")
    assert set(node.phases().values()) == {"lost"}
    assert not any(os.path.exists(f"/proc/{row['pid']}") for row in before.values())
    assert node.stead("logs", "polite").split() == ["begun", "bye"]
    assert "ended 0 containers" in node.stead("halt")

    node.stead("apply", str(node.specs))
    assert set(node.phases().values()) == {"running"}
    assert {name: row["id"] for name, row in node.ps().items()} == {
        name: row["id"] for name, row in before.items()
    }
