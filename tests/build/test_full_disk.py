"""A build for which the disk is too small says so, leaves nothing behind, and the next one goes well."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.engines import Stead, base_layout
from tests.build.workshop import Workshop

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SIZE = 12  # MiB; busybox and its layer need 4
MORE = 20 << 20  # bytes that do not fit


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    layout = base_layout(tmp_path / "layout")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", small], check=True)
    engine = Stead(small / "stead")
    try:
        engine.start(layout)
        (tmp_path / "context").mkdir()
        yield Workshop(engine, tmp_path / "context")
    finally:
        engine.close()
        subprocess.run(["umount", small], check=True)


def used(shop: Workshop) -> int:
    found = os.statvfs(shop.engine.directory)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize(
    "line",
    [
        "COPY big /big",
        "ADD big.tar /unpacked/",
        f"RUN dd if=/dev/zero of=/big bs=65536 count={MORE >> 16}",
        f"RUN --mount=type=cache,target=/tmp,id=full dd if=/dev/zero of=/tmp/big bs=65536 count={MORE >> 16}",
    ],
    ids=["copy", "archive", "run", "cache"],
)
def test_a_full_disk_is_said_and_left_as_it_was(shop: Workshop, line: str) -> None:
    shop.write({"big": "x" * MORE, "big.tar": {"archive": {"big": "x" * MORE}}, "small": "s"})
    shop.write({"Dockerfile": "FROM base\nCOPY small /\n"})
    shop.build("-t", "small")
    before = used(shop)
    shop.write({"Dockerfile": f"FROM base\nCOPY small /\n{line}\n"})
    report = shop.build("-t", "big", code=1)
    assert "o space left on device" in report.output and "Traceback" not in report.output
    if "cache" in line:  # what programs keep there is theirs
        assert shop.engine.stead("builder", "prune", "-af").code == 0
    assert used(shop) <= before + (256 << 10)
    shop.write({"Dockerfile": "FROM base\nCOPY small /\nRUN touch /well\n"})
    shop.build("-t", "small")
    assert "well" in shop.image("small").tree
