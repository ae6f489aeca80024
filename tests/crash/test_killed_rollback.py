"""kill -9 of `stead apply` after every kind of change while a broken update is rolled out and taken back.

The next one ends with the good version, and says so.
"""

from __future__ import annotations

import os
import shutil

import pytest

from runtime import attend
from tests.crash.box import Box, share
from tests.crash.test_killed_anywhere import CHANGES, shared_out

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

VERSIONS = "agent/rollouts.py:Rollouts.keep return"


def write(box: Box, version: str, *, broken: bool = False) -> None:
    program = '["sh", "-c", "exit 1"]\nrestart = "no"' if broken else '["sleep", "10000"]'
    (box.specs / "shop.toml").write_text(
        f"""
[container.web]
image = "busy:1"
command = {program}
replicas = 2
environment = {{ VERSION = "{version}" }}
volumes = ["data:/data"]
stop_grace_period = "100ms"
update = {{ monitor = "200ms", order = "{"start-first" if version.endswith("1") else "stop-first"}" }}

[volume.data]
"""
    )


def versions(box: Box) -> dict[str, str]:
    """Of the containers that run."""
    found = {}
    for record in attend.read_all(box.paths):
        state = attend.live_state(box.paths, record)
        if state is not None and state.phase == "running":
            found[record.name] = record.decode().environment["VERSION"]
    return found


def test_a_rollback_killed_after_any_change_is_finished_by_the_next(boxes: list[Box]) -> None:
    for box in boxes:
        write(box, "good")
        box.well("apply", str(box.specs))
    write(boxes[0], "bad", broken=True)
    seen = boxes[0].places("apply", str(boxes[0].specs), code=1)
    assert "was rolled back to revision" in boxes[0].out.read_text()
    kinds = [place for place in seen if CHANGES.fullmatch(place)]
    assert len(kinds) > 10 and VERSIONS in seen
    places = share([f"{kind} {nth}" for kind in kinds for nth in sorted({1, seen[kind]})])
    places += [f"{VERSIONS} {nth + 1}" for nth in range(seen[VERSIONS])]

    def work(box: Box, number: int) -> int:
        reached = 0
        for nth, place in enumerate(places[number :: len(boxes)]):
            write(box, f"bad{nth}", broken=True)
            reached += box.killed("apply", str(box.specs), place=place)
            code, said = box.stead("apply", str(box.specs))
            assert code == 1 and "was rolled back to revision" in said, (place, said)
            assert versions(box) == {"default/web-1": "good", "default/web-2": "good"}, place
            strays = box.inventory.strays()
            assert strays == [], (place, strays)
        write(box, "mended")
        box.well("apply", str(box.specs))
        assert set(versions(box).values()) == {"mended"}
        box.settled()
        return reached

    assert shared_out(boxes, work) > 0.6 * len(places)
