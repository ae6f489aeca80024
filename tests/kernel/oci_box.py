"""Bundles for the low-level runtime, and runc beside it as the measure: busybox in a directory."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.linux import cgroups

STEAD = Path(__file__).resolve().parents[2] / "contrib" / "bin" / "stead-oci"
RUNC = shutil.which("runc")
APPLETS = (
    "sh cat cut date dd df echo env false find free grep head hostname id ip kill ls mkdir mkfifo mknod mount"
    " nice nohup ps pwd readlink renice rm seq sleep sort stat stty sysctl tail taskset test touch tr true"
    " tty umount uname wc"
).split()
TIMEOUT = 60.0


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    errors: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Oci:
    """One runtime with a --root of its own."""

    def __init__(self, program: str | Path, root: Path) -> None:
        self.program, self.root = str(program), root

    def command(self, *words: str) -> list[str]:
        return [self.program, "--root", str(self.root), *words]

    def __call__(self, *words: str, stdin: str = "", **more: Any) -> Said:
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=TIMEOUT, **more
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def well(self, *words: str, **more: Any) -> str:
        said = self(*words, **more)
        assert said.code == 0, said.errors
        return said.out

    def state(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.well("state", id))
        return found

    def detached(self, *words: str, output: Path, **more: Any) -> None:
        """A container that keeps what it is given as streams: not a pipe that would never end."""
        with output.open("wb") as out:
            done = subprocess.run(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                timeout=TIMEOUT,
                **more,
            )
        assert done.returncode == 0, output.read_text()

    def clear(self) -> None:
        if self.root.exists():
            for record in self.root.iterdir():
                if not record.name.startswith("."):
                    self("delete", "--force", record.name)


class Bundle:
    """A directory with config.json; `config` is as `stead oci spec` writes it, without a terminal."""

    def __init__(self, path: Path, rootfs: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, copy.deepcopy(config)
        path.mkdir()
        self.config["root"] = {"path": str(rootfs)}
        self.config["process"]["terminal"] = False
        self.config["process"]["noNewPrivileges"] = False
        # a limit above the host's hard one takes CAP_SYS_RESOURCE
        self.config["process"]["rlimits"] = []
        self.id = "ocitest" + uuid.uuid4().hex[:10]
        self.config["linux"]["cgroupsPath"] = f"/{self.id}"

    @property
    def linux(self) -> dict[str, Any]:
        linux: dict[str, Any] = self.config["linux"]
        return linux

    @property
    def process(self) -> dict[str, Any]:
        process: dict[str, Any] = self.config["process"]
        return process

    def script(self, text: str) -> Bundle:
        self.process["args"] = ["/bin/sh", "-c", text]
        return self

    def namespace(self, kind: str, **more: str) -> None:
        kept = [space for space in self.linux["namespaces"] if space["type"] != kind]
        self.linux["namespaces"] = [*kept, {"type": kind, **more}]

    def without(self, kind: str) -> None:
        self.linux["namespaces"] = [space for space in self.linux["namespaces"] if space["type"] != kind]

    def write(self) -> Bundle:
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self

    def run(self, oci: Oci, *options: str, **more: Any) -> Said:
        self.write()
        return oci("run", *options, "--bundle", str(self.path), self.id, **more)

    def start(self, oci: Oci, *options: str) -> int:
        """Detached; its pid."""
        self.write()
        words = ("run", "--detach", *options, "--bundle", str(self.path), self.id)
        oci.detached(*words, output=self.path / "out")
        return int(oci.state(self.id)["pid"])

    def create(self, oci: Oci, *options: str) -> int:
        self.write()
        oci.detached("create", *options, "--bundle", str(self.path), self.id, output=self.path / "out")
        return int(oci.state(self.id)["pid"])

    def output(self) -> str:
        return (self.path / "out").read_text()


class Workshop:
    """Where bundles are made; what is left of them is deleted at the end."""

    def __init__(self, base: Path) -> None:
        self.base, self.rootfs = base, base / "rootfs"
        self.stead = Oci(STEAD, base / "stead")
        self.runc = Oci(RUNC, base / "runc") if RUNC else None
        for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "data", "home"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy("/usr/bin/busybox", self.rootfs / "bin" / "busybox")
        for applet in APPLETS:
            (self.rootfs / "bin" / applet).symlink_to("busybox")
        (self.rootfs / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
        (base / "spec").mkdir()
        self.stead.well("spec", "--bundle", str(base / "spec"))
        self._config = json.loads((base / "spec" / "config.json").read_text())
        self._made = 0

    def bundle(self, script: str = "true") -> Bundle:
        self._made += 1
        return Bundle(self.base / f"bundle{self._made}", self.rootfs, self._config).script(script)

    def runtimes(self) -> Sequence[Oci]:
        return [self.stead] if self.runc is None else [self.stead, self.runc]


@contextmanager
def workshop(base: Path) -> Iterator[Workshop]:
    made = Workshop(base)
    try:
        yield made
    finally:
        for oci in made.runtimes():
            oci.clear()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def left(shop: Workshop, bundle: Bundle) -> list[Path]:
    """What there is of a container outside of its bundle."""
    found = [shop.stead.root / bundle.id] if (shop.stead.root / bundle.id).exists() else []
    return [
        *found,
        *(Path(root) / bundle.id for root in cgroups.detect().roots() if (Path(root) / bundle.id).exists()),
    ]
