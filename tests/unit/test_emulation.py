"""Which images a machine can run."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.faults import Fault
from runtime.images.emulation import check_runs
from runtime.images.manifests import Platform

AMD64 = Platform.parse("linux/amd64")
AARCH64 = (
    "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: F\noffset 0\n"
    "magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
)


def config(platform: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))


@pytest.mark.parametrize("image", ["linux/amd64", "linux/386", "linux/sparc64"])
def test_what_the_machine_runs_itself_or_is_not_known_passes(tmp_path: Path, image: str) -> None:
    check_runs(config(image), AMD64, "p/c", tmp_path / "none")
    check_runs({}, AMD64, "p/c", tmp_path)
    check_runs(config("linux/arm"), Platform.parse("linux/arm/v6"), "p/c", tmp_path)


@pytest.mark.parametrize("image", ["linux/arm64", "linux/arm/v7", "linux/s390x", "linux/amd64/v99"])
def test_what_nothing_here_runs_is_refused_by_name(tmp_path: Path, image: str) -> None:
    (tmp_path / "status").write_text("enabled\n")
    with pytest.raises(Fault, match=f"its image is for {image}") as caught:
        check_runs(config(image), AMD64, "p/c", tmp_path)
    assert caught.value.code == "platform-missing"


def test_a_registered_emulator_is_enough_and_a_disabled_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "qemu-aarch64").write_text(AARCH64)
    (tmp_path / "python3.11").write_text("enabled\ninterpreter /usr/bin/python3.11\nmagic a70d0d0a\n")
    check_runs(config("linux/arm64"), AMD64, "p/c", tmp_path)
    with pytest.raises(Fault, match="no emulator is registered"):
        check_runs(config("linux/arm/v7"), AMD64, "p/c", tmp_path)
    (tmp_path / "qemu-aarch64").write_text(AARCH64.replace("enabled", "disabled"))
    with pytest.raises(Fault, match="no emulator is registered"):
        check_runs(config("linux/arm64"), AMD64, "p/c", tmp_path)
