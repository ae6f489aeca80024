"""What the kernel or the disk refuses once, at each place where a command writes: it is told and made up for.

As tests.crash.test_killed_anywhere, but a call fails with an error (ENOSPC, EAGAIN, EBUSY) instead of a kill.
The command says so and ends in an orderly way, and the next one converges with nothing left behind.
"""

from __future__ import annotations

import errno
import os
import re
import shutil

import pytest

from tests.crash.box import Box, share
from tests.crash.test_killed_anywhere import page, shared_out, write
from tests.e2e.conftest import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

#: what may be refused, and how
REFUSED = {
    "ENOSPC": re.compile(
        r"""runtime/(
        database.py:Database.write
        | paths.py:write_atomically
        | net/names.py:write_in_place
        | volumes/copying.py:_copy_entry
        )\ call""",
        re.VERBOSE,
    ),
    "EBUSY": re.compile(r"runtime/linux/(cgroups_v2.py:write|mounts.py:attach) call"),
    "EAGAIN": re.compile(r"runtime/(linux/cgroups.py:Cgroups.create|shim/forking.py:Zygote.fork) call"),
    "ENOBUFS": re.compile(r"runtime/net/netlink.py:Netlink.(change|try_all) call"),
    "ENOMEM": re.compile(r"runtime/linux/namespaces.py:create_netns call"),
}


def places(box: Box, *words: str) -> list[tuple[str, str]]:
    """(error, place) for the first and the last time of each."""
    seen = box.places(*words)
    found = [
        (error, f"{place} {nth}")
        for place, count in seen.items()
        for error, pattern in REFUSED.items()
        if pattern.fullmatch(place)
        for nth in sorted({1, count})
    ]
    assert {error for error, _ in found} >= REFUSED.keys() - {"ENOBUFS"}, seen
    return found


def test_each_write_that_fails_is_told_and_made_up_for(boxes: list[Box]) -> None:
    ports = [Node.free_port() for _ in boxes]
    write(boxes[0], ports[0])
    found = share(places(boxes[0], "apply", str(boxes[0].specs)))
    boxes[0].well("down", str(boxes[0].specs), "--volumes")

    def work(box: Box, number: int) -> int:
        write(box, ports[number])
        told = 0
        for error, place in found[number :: len(boxes)]:
            code, text = box.refused("apply", str(box.specs), place=place, error=error)
            cause = os.strerror(getattr(errno, error)).lower()
            assert "Traceback" not in text and code in (0, 1), f"{error} {place}: {code}\n{text}"
            assert code == 0 or cause in text.lower(), f"{error} {place}: {text}"
            told += code == 1
            box.well("apply", str(box.specs))
            box.settled()
            assert page(ports[number]) == b"well\n", place
            box.well("down", str(box.specs), "--volumes")
            assert box.inventory.strays() == [], place
        return told

    assert shared_out(boxes, work) > len(found) / 5
