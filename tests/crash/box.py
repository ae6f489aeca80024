"""Effects: a state directory whose commands may be killed at any place, and be judged afterwards."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runtime.linux import mounts
from runtime.paths import Paths
from runtime.shim import client
from tests.crash.bomb import REPOSITORY
from tests.crash.inventory import Inventory

Place = TypeVar("Place")

DEADLINE = 30.0
#: s for one call of the command: below pytest's own limit for a test, which does not hold in a fixture's end
CALL = 100.0


class Nursery:
    """Forks the command `stead` (tests.crash.nursery)."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def call(self, words: list[str], out: Path, place: str | None = None) -> int:
        """The exit code; -9 when it was killed."""
        assert self._process.stdin is not None
        call = {"words": words, "out": str(out), "place": place}
        try:
            self._process.stdin.write(json.dumps(call) + "\n")
            self._process.stdin.flush()
            return os.waitstatus_to_exitcode(int(self._line()))
        except BaseException:  # a test that is over its time: the next one must not get this one's answer
            self._renew()
            raise

    def _line(self) -> str:
        """AssertionError when there is none in time: the call has ended then, too."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], CALL)[0]:
            raise AssertionError(f"no end within {CALL:g} s")
        return self._process.stdout.readline().strip()

    def _renew(self) -> None:
        self._process.kill()
        self.close()
        self._begin()

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


class Box:
    """`specs` is applied to a state directory in `base`."""

    def __init__(self, base: Path, nursery: Nursery) -> None:
        self.base, self.nursery, self.specs = base, nursery, base / "shop"
        self.specs.mkdir()
        self.paths = Paths(base / "root", base / "run")
        self.inventory = Inventory(self.paths)
        self.out = base / "out"

    def stead(self, *words: str, place: str | None = None) -> tuple[int, str]:
        given = ["--root", str(self.paths.root), "--run", str(self.paths.run), *words]
        code = self.nursery.call(given, self.out, place)
        return code, self.out.read_text()

    def well(self, *words: str) -> str:
        code, text = self.stead(*words)
        assert code == 0, f"stead {' '.join(words)}: {code}\n{text}"
        return text

    def places(self, *words: str, code: int = 0) -> dict[str, int]:
        """Every place of the runtime that a call passes, in the order of the first time; its exit code is
        `code`."""
        found_code, text = self.stead(*words, place="")
        assert found_code == code, text
        found: dict[str, int] = json.loads(Path(f"{self.out}.places").read_text())
        return found

    def killed(self, *words: str, place: str) -> bool:
        """Whether the call came to `place` and was killed there. Returns when its children are gone, too."""
        assert is_place(place), f"there is no {place}"
        survivors = Path(f"{self.out}.survivors")
        survivors.unlink(missing_ok=True)
        code, _ = self.stead(*words, place=place)
        if code != -signal.SIGKILL:
            return False
        self.inventory.records()
        for pid in json.loads(survivors.read_text()):
            until(lambda pid=pid: is_gone(pid), f"child {pid} of the killed process ends")  # type: ignore[misc]
        return True

    def refused(self, *words: str, place: str, error: str) -> tuple[int, str]:
        """A call in which what happens at `place` fails with `error` ("ENOSPC")."""
        assert is_place(place), f"there is no {place}"
        return self.stead(*words, place=f"{error} {place}")

    def ps(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.well("ps", "--json"))}

    def kill(self, id: str) -> None:
        """A container, as the machine's end does: its shim, its processes, its mounts, its namespace."""
        state = client.read_state(self.paths.live(id))
        assert state is not None
        os.kill(state.shim_pid, signal.SIGKILL)
        self.inventory.cgroups.kill(f"stead.slice/{id}")
        for path in (self.paths.rootfs(id), self.paths.netns(id)):
            mounts.unmount(path)

    def settled(self) -> None:
        """Nothing is left to do, and nothing is there that no record accounts for."""
        assert self.well("plan", str(self.specs)) == "nothing to do\n"
        strays = self.inventory.strays()
        assert strays == [], strays


def share(places: list[Place]) -> list[Place]:
    """Every second one, another half by chance: a run in CI takes half of the time, and a few runs pass all.
    With STEAD_EVERY_PLACE in the environment, all."""
    return places if os.environ.get("STEAD_EVERY_PLACE") else places[os.getpid() % 2 :: 2]


def is_place(place: str) -> bool:
    """Whether there is such a function: a bomb at a name that is no more would never go off."""
    file, _, name = place.split()[0].partition(":")
    own = name.rpartition(".")[2]
    return not own.isidentifier() or f"def {own}(" in Path(REPOSITORY, file).read_text()


def is_gone(pid: int) -> bool:
    """Ended, or a zombie that somebody else will reap."""
    try:
        return re.search(r"^State:\s+Z", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    except OSError:
        return True


def until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> float:
    """Seconds until it held."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < deadline, f"not within {deadline:g} s: {what}"
        time.sleep(0.01)  # between two looks
    return time.monotonic() - begin


def busybox(to: Path) -> Path:
    """A root filesystem of Debian's static busybox."""
    binary = shutil.which("busybox")
    if binary is None or subprocess.run(["ldd", binary], capture_output=True).returncode == 0:
        pytest.skip("needs Debian's busybox-static")
    for name in ("bin", "www", "tmp", "data"):
        (to / name).mkdir(parents=True)
    shutil.copy2(binary, to / "bin" / "busybox")
    for name in ("sh", "httpd", "sleep", "cat", "env", "usleep"):
        (to / "bin" / name).symlink_to("busybox")
    (to / "www" / "index.html").write_text("well\n")
    (to / "data" / "first").write_text("from the image\n")
    return to
