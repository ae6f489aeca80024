"""kill -9 of `stead apply` and `stead down` at each change to volumes and to what they lie on."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from runtime.linux import mounts
from tests.crash.box import Box, share

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    pytest.mark.skipif(shutil.which("mkfs.ext4", path="/usr/sbin:/sbin") is None, reason="needs e2fsprogs"),
]

CHANGES = re.compile(
    r"""runtime/(
    volumes/backing.py:(_make_loop|_mount|_run|unmount)
    | volumes/copying.py:(_copy_entry|sync)
    | volumes/filling.py:(fill|_copy_from_image)
    | volumes/mounting.py:(_part|_make_place|Mounting\.(_image|clear))
    | volumes/store.py:Volumes\.(_hold|_let_go|_insert|_set_filled|_discard|adopt|disown)
    )\ return""",
    re.VERBOSE,
)

SPEC = """
[volume.data]
driver_opts = { loop = "ext4", size = "4m" }

[volume.fast]
driver_opts = { type = "tmpfs", o = "size=1m" }

[container.web]
image = "busy:1"
command = ["sleep", "10000"]
network_mode = "none"
stop_grace_period = "100ms"
volumes = [
  "data:/data",
  "fast:/fast",
  "/www",
  { type = "volume", source = "data", target = "/part", volume = { subpath = "first" } },
  { type = "image", source = "busy:1", target = "/tools", image = { subpath = "bin" } },
]
"""


def changes(box: Box, *words: str) -> list[str]:
    found = {place: count for place, count in box.places(*words).items() if CHANGES.fullmatch(place)}
    return [f"{place} {nth}" for place, count in found.items() for nth in sorted({1, count})]


def whole(box: Box) -> bool:
    """The container has all that it mounts, filled."""
    script = "cat /data/first /part; cat /www/index.html; busybox ls -d /tools/busybox /fast"
    wanted = "from the image\nfrom the image\nwell\n/fast\n/tools/busybox\n"
    return box.well("exec", "web", "busybox", "sh", "-c", script) == wanted


def below(box: Box) -> list[str]:
    """What is mounted or held of volumes."""
    mounted = [mount.target for mount in mounts.table() if str(box.paths.volumes) in mount.target]
    held = box.paths.run / "volumes"
    return mounted + (os.listdir(held) if held.exists() else [])


def test_whatever_was_begun_with_volumes_is_finished_or_forgotten(box: Box) -> None:
    (box.specs / "shop.toml").write_text(SPEC)
    ups = changes(box, "apply", str(box.specs))
    assert whole(box)
    downs = changes(box, "down", str(box.specs), "--volumes")
    assert len(ups) > 15 and len(downs) > 4, (ups, downs)
    assert below(box) == [] and os.listdir(box.paths.volumes) == []
    downs += downs[: len(ups) - len(downs)]
    ups, reached = share(ups[::3]), 0
    for number, up in enumerate(ups):
        reached += box.killed("apply", str(box.specs), place=up)
        box.well("apply", str(box.specs))
        box.settled()
        assert whole(box), up
        down = downs[number % len(downs)]
        reached += box.killed("down", str(box.specs), "--volumes", place=down)
        box.well("down", str(box.specs), "--volumes")
        assert box.inventory.strays() == [] and below(box) == [], down
        assert os.listdir(box.paths.volumes) == [], down
    assert reached > 0.8 * len(ups)  # of twice as many
