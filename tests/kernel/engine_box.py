"""A runtime of its own with a busybox image, for tests that look at containers from inside. No agent."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime import attend, logs
from runtime.linux import mounts
from runtime.local import LocalRuntime
from runtime.paths import Paths
from runtime.shim import client
from runtime.wishes import ContainerRequest, RestartRequest
from specs.values import ImageRef, MountPoint
from tests.kernel.shim_box import BUSYBOX, until

IMAGE = ImageRef.parse("tests/busybox:1")
APPLETS = (
    "sh cat chmod chown dd df echo env false grep head hostname httpd id kill ls mkdir mkfifo mknod mount nc"
    " ps pwd readlink rm setsid sleep stat stty sysctl tail test touch tr true umount wc yes"
).split()
PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:1000:\nextra:x:2000:web,other\nmore:x:2001:web\nthird:x:2002:\n"
#: Ten ranges for containers with ids of their own.
FIRST_ID = 7_000_000
SUBIDS = f"stead:{FIRST_ID}:655360\n"
#: This interpreter, for looks that busybox cannot take; `with_python` brings it into a container.
PYTHON = os.path.realpath(sys.executable)


def bind(source: str, target: str = "", *, read_only: bool = True, **more: Any) -> MountPoint:
    return MountPoint("bind", source, target or source, read_only, **more)


def with_python() -> tuple[MountPoint, ...]:
    """Mounts that make PYTHON run in a container."""
    places = [path for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]
    if not sys.base_prefix.startswith("/usr"):
        places.append(sys.base_prefix)
    return tuple(bind(path) for path in places)


@dataclass(frozen=True)
class Result:
    """How a container or an exec session ended, and what it said."""

    code: int
    text: str
    errors: str
    state: client.State | None = None

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Engine:
    """One runtime. Containers are called t/1, t/2, ... and have no network."""

    def __init__(self, base: Path, *, stays: bool = False) -> None:
        self.base = base
        self.paths = Paths(base / "root", base / "run")
        base.mkdir(exist_ok=True)
        self.subids = base / "subids"  # both of users and of groups
        self.subids.write_text(SUBIDS)
        self.runtime = LocalRuntime(
            self.paths, pool="10.214.0.0/16", subids=(self.subids, self.subids), stays=stays
        )
        self._names = (f"t/{number}" for number in itertools.count(1))
        self.runtime.import_image(rootfs(base / "image"), IMAGE)

    def start(self, *command: str, **request: Any) -> str:
        """A running container's name; one word is a shell script."""
        name = self.create(*command, **request)
        self.runtime.start_container(name)
        return name

    def create(self, *command: str, **request: Any) -> str:
        words = ("sh", "-c", *command) if len(command) == 1 else command
        standard: dict[str, Any] = {
            "name": next(self._names),
            "source": "t",
            "identity": "i",
            "adjustable": "a",
            "facets": "{}",
            "image": IMAGE,
            "command": words,
            "network_mode": "none",
            "restart": RestartRequest("no"),
            "stop_grace_period": 0.1,
        }
        made = ContainerRequest(**{**standard, **request})
        self.runtime.create_container(made)
        return made.name

    def run(self, *command: str, **request: Any) -> Result:
        """To its end; the container is removed."""
        name = self.start(*command, **request)
        try:
            return self.result(name)
        finally:
            self.runtime.remove_container(name)

    def result(self, name: str) -> Result:
        """Wait for the container's end."""
        state = until(lambda: client.read_exit(self.home(name)))
        return Result(state.exit_code, self.output(name), self.output(name, 2), state)

    def output(self, name: str, stream: int = 1) -> str:
        entries = logs.read(self.home(name) / "log", streams=(stream,))
        return b"".join(data for _, _, data in entries).decode()

    def exec(self, name: str, *command: str, stdin: bytes = b"", **options: Any) -> Result:
        """A program in a running container, to its end."""
        words = ("sh", "-c", *command) if len(command) == 1 else command
        record = attend.find(self.paths, name)
        process = attend.exec_process(
            self.paths, record, attend.ExecOptions(words, options.pop("environment", {}), **options)
        )
        pipes = [os.pipe() for _ in range(3)]
        os.write(pipes[0][1], stdin)
        os.close(pipes[0][1])
        theirs = (pipes[0][0], pipes[1][1], pipes[2][1])
        try:
            session = client.exec_process(self.paths.live(record.id), process, stdio=theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        with session, os.fdopen(pipes[1][0], "rb") as out, os.fdopen(pipes[2][0], "rb") as errors:
            texts = [file.read().decode() for file in (out, errors)]
            return Result(session.wait(10), *texts)

    def stead(self, *words: str) -> list[str]:
        """The command line on this runtime's directories."""
        program = "from agent.cli.main import main; raise SystemExit(main())"
        roots = ("--root", str(self.paths.root), "--run", str(self.paths.run))
        return [sys.executable, "-c", program, *roots, *words]

    def state(self, name: str) -> client.State:
        state = client.read_state(self.live(name))
        assert state is not None
        return state

    def id(self, name: str) -> str:
        return attend.find(self.paths, name).id

    def live(self, name: str) -> Path:
        return self.paths.live(self.id(name))

    def home(self, name: str) -> Path:
        return self.paths.container(self.id(name))

    def config(self, name: str) -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads((self.home(name) / "config.json").read_text())
        return found

    def close(self) -> None:
        for name in self.runtime.observe().containers:
            self.runtime.remove_container(name)
        for network in self.runtime.fabric.networks():  # the one that `stead run` makes
            self.runtime.remove_network(network.name)
        self.runtime.close()
        assert os.listdir(self.paths.run / "containers") == []
        assert [mount.target for mount in mounts.table() if str(self.base) in mount.target] == []


def rootfs(root: Path) -> Path:
    """busybox with its applets, two users, and a directory that another user may write to."""
    for name in ("bin", "etc", "home/web", "root", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2(BUSYBOX, root / "bin" / "busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    os.chown(root / "home/web", 1000, 1000)
    os.chmod(root / "tmp", 0o1777)
    return root


@contextmanager
def engine(base: Path, *, stays: bool = False) -> Iterator[Engine]:
    made = Engine(base, stays=stays)
    try:
        yield made
    finally:
        made.close()
