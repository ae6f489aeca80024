"""A fresh Debian machine with systemd in an emulator, and Stead installed in it as README says.

STEAD_VM names the tool that boots machines: `vm up NAME`, `vm run NAME --stdin -- sh -es`, `push`, `cut`,
`reboot`, `rm`. Emulation is 10 to 24 times slower than a machine: deadlines are generous, nothing here is a
measurement.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
NOT_SHIPPED = (
    ".git",
    ".venv",
    "__pycache__",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    "tests",
    "benchmarks",
)
#: s for one command in the machine, and until something in it has come true
COMMAND, DEADLINE = 180.0, 300.0

IMAGE = """
rm -rf image && mkdir -p image/bin image/etc image/www image/tmp
cp "$(command -v busybox)" image/bin/busybox
for applet in cat date dd env head httpd id ls md5sum mknod mount nslookup sh sleep tail unshare wget; do
    ln -s busybox image/bin/$applet
done
echo 'root:x:0:0:root:/:/bin/sh' >image/etc/passwd
echo well >image/www/index.html
stead image import image busy:1
"""

SHOP = """
project = "shop"

[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports = ["8080:80"]
memory = "64MiB"
cpus = 0.5
stop_grace_period = "200ms"
healthcheck = { http = "http://:80/", interval = "2s" }

[container.tick]
image = "busy:1"
command = [
  "sh", "-c",
  "trap 'echo bye; exit 0' TERM; n=0; while :; do echo tick $$n; n=$$((n+1)); sleep 0.3; done",
]
"""

REPOSITORY = f"""
git config --global user.name t
git config --global user.email t@example.org
git config --global core.fsync all # the test's own repositories must outlive power cuts
git init -q --bare -b main /srv/shop.git
git init -q -b main shop
cat >shop/shop.toml <<'END'
{SHOP}
END
git -C shop add -A
git -C shop commit -q -m first
git -C shop push -q /srv/shop.git main
printf '[[source]]\\nname = "shop"\\ngit = "/srv/shop.git"\\ninterval = "2s"\\n' >/etc/stead/stead.toml
systemctl restart stead
"""


class Machine:
    """One virtual machine."""

    def __init__(self, tool: str, name: str) -> None:
        self.tool, self.name = tool, name

    def vm(self, verb: str, *words: str, timeout: float = 300.0) -> str:
        done = subprocess.run(
            [self.tool, verb, self.name, *words], capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"vm {verb}: {done.stdout}{done.stderr}\n{self.console()}"
        return done.stdout

    def run(self, script: str, *, code: int | None = 0, timeout: float = COMMAND) -> str:
        """Standard output and then error of a script that ends at its first failure, as root in /root."""
        command = [self.tool, "run", self.name, "--stdin", "--timeout", f"{timeout:g}", "--", "sh", "-es"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=timeout + 30)
        text = done.stdout + done.stderr
        if text.startswith(f"vm: {self.name}: "):  # it did not answer
            text += self.console()
        assert code is None or done.returncode == code, f"exit {done.returncode} of: {script}\n{text}"
        return text

    def console(self) -> str:
        """The end of what the kernel and systemd wrote to it, and whether the machine is on."""
        words = ([self.tool, "log", self.name], [self.tool, "list"])
        said = [subprocess.run(w, capture_output=True, text=True, timeout=60).stdout for w in words]
        return "\n".join([*said[0].splitlines()[-40:], said[1]])

    def reboot(self) -> None:
        """systemctl reboot, asked for a moment later: who asks has its answer before the machine goes."""
        before = self.boot_id()
        self.run("systemd-run --quiet --on-active=1s systemctl reboot")
        self.until(lambda: self.boot_id() not in ("", before), "the machine is up again", 800)

    def boot_id(self) -> str:
        """Empty while it does not answer: who is asked on the way down never does."""
        words = ["cat", "/proc/sys/kernel/random/boot_id"]
        command = [self.tool, "run", self.name, "--timeout", "10", "--", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        return done.stdout.strip() if done.returncode == 0 else ""

    def answers(self) -> bool:
        """Whether commands can be run in it (again)."""
        command = [self.tool, "run", self.name, "--timeout", "5", "--", "true"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0

    def until(self, condition: Callable[[], Any], what: str, timeout: float = DEADLINE) -> Any:
        """The first true value. What the machine says of itself is in the failure."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > end:
                state = self.run("stead status; stead ps; journalctl -u stead -n 40 --no-pager", code=None)
                raise AssertionError(f"within {timeout:g} s not: {what}\n{state}")
            time.sleep(0.3)  # between two looks, each of which takes the emulator longer
        return value


class Node(Machine):
    """A machine with Stead on it. `before` is what a stock machine said before the installation."""

    before: str = ""
    installed: str = ""

    def install(self, wheels: Path) -> None:
        """`./setup install` from a copy of the checkout; Python packages come from `wheels`, as pip's own
        variables say."""
        ship = wheels.parent / "ship"
        shutil.copytree(CHECKOUT, ship, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
        self.vm("push", str(ship), "/root/stead")
        self.vm("push", str(wheels), "/root/wheels")
        self.installed = self.setup("install")

    def setup(self, verb: str) -> str:
        # modules are compiled when they are first imported: most never are, and it takes the emulator long
        pip = "PIP_NO_INDEX=1 PIP_NO_COMPILE=1 PIP_FIND_LINKS=/root/wheels"
        return self.run(f"cd stead && {pip} ./setup {verb}", timeout=800)

    # ------------------------------------------------------------ what Stead says

    def ps(self) -> dict[str, dict[str, Any]]:
        text = self.run("stead ps --json")
        return {row["name"].removeprefix("shop/"): row for row in json.loads(text)}

    def phases(self) -> dict[str, str]:
        return {name: row["phase"] for name, row in self.ps().items()}

    def status(self) -> dict[str, Any]:
        """As `stead status --json` has it, in a tenth of the time; empty where no agent answers."""
        text = self.run("curl -s --unix-socket /run/stead/agent.sock http://agent/v1/status", code=None)
        found: dict[str, Any] = json.loads(text) if text.startswith("{") else {}
        return found

    def converged(self, but: frozenset[str] = frozenset()) -> bool:
        """On the newest commit; `but` are containers whose first deployment fails, as is wanted."""
        head = self.run("git -C /srv/shop.git rev-parse main").strip()
        found = self.status()
        if not found or found["sources"][0]["revision"] != head:
            return False
        if found["state"] != "blocked" or not but:
            return bool(found["state"] == "converged")
        names = {item["name"].rpartition("/")[2] for item in found["blocked"]}
        return names <= but and not found["plan"] and not found["in_flight"]

    def settle(self, *but: str) -> dict[str, dict[str, Any]]:
        """Wait until the newest commit is in force and all is well; what `stead ps` says then."""
        self.until(lambda: self.converged(frozenset(but)), "the newest commit is converged")
        return self.ps()

    def metrics(self) -> dict[str, float]:
        """Sample with its labels -> value."""
        text = self.run("curl -sf http://127.0.0.1:9420/metrics")
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def ticks(self) -> list[list[int]]:
        """The numbers that `tick` has counted up to now, a list for each of its runs; other lines must be its
        farewells.
        """
        runs: list[list[int]] = []
        for line in self.run("stead logs tick 2>&1").splitlines():
            word, _, number = line.partition(" ")
            assert word in ("tick", "bye"), repr(line[:200])
            if number == "0":
                runs.append([])
            if number:
                runs[-1].append(int(number))
        return runs

    # ------------------------------------------------------------ what is declared

    def commit(self, files: dict[str, str], remove: Iterable[str] = ()) -> str:
        """Push a commit with these files, on the machine itself. Returns its id."""
        script = ["cd shop"]
        script += [f"cat >{name} <<'END'\n{content}\nEND" for name, content in files.items()]
        script += [f"rm -f {name}" for name in remove]
        script += [
            "git add -A",
            "git commit -q -m change",
            "git push -q /srv/shop.git main",
            "git rev-parse HEAD",
        ]
        return self.run("\n".join(script)).strip()

    def retire(self, name: str) -> dict[str, dict[str, Any]]:
        """Take a file of the specs away that declares more than half of all containers: somebody has to say
        that it is meant. Returns what is left."""
        head = self.commit({}, remove=[name])
        held = f"waits for: stead approve {head[:12]}"
        self.until(lambda: held in self.run("stead status", code=None), "the removal is held back")
        self.run(f"stead approve {head}")
        return self.settle()

    # ------------------------------------------------------------ what the kernel says

    def cgroup(self, id: str, *files: str) -> list[str]:
        script = "\n".join(f"tr '\\n' ' ' </sys/fs/cgroup/stead.slice/{id}/{file}; echo" for file in files)
        return [line.strip() for line in self.run(script).splitlines()]

    def main_pid(self) -> int:
        return int(self.run("systemctl show -p MainPID --value stead"))

    def warnings(self, since: str) -> str:
        """What the agent and systemd said about it in this boot that someone should look at."""
        return self.run(
            f"journalctl -b -q -u stead -p warning --no-pager -o cat --since '{since}'", code=None
        )

    def now(self) -> str:
        return self.run("date '+%F %T'").strip()


def download_wheels(target: Path) -> None:
    """All that pip takes from an index, for Debian 12's Python: the machine needs no internet."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(target)]
    command += [
        "--only-binary",
        ":all:",
        "--python-version",
        "3.11",
        "--constraint",
        str(CHECKOUT / "constraints.txt"),
    ]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*command, *needed], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
