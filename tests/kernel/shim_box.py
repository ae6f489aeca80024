"""A hand-made container for the tests of the shim: busybox in a directory, a bundle, a cgroup, no agent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.linux import cgroups, namespaces, pidfd
from runtime.shim import client, forking, messages, rescue

BUSYBOX = Path("/usr/bin/busybox")
MEBIBYTE = 1024 * 1024


def until(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """The first true value of `condition`; AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.002)
    return value


def spawn(zygote: forking.Zygote, bundle: Path, live: Path) -> None:
    """Fork and start the shim of a bundle that is there. ShimError."""
    with zygote.fork(bundle, live, idle=_will_be_idle(bundle)) as birth:
        birth.start()


def _will_be_idle(bundle: Path) -> bool:
    """Whether its shim has nothing to probe, no terminal or input to serve and no strangers' orphans to wait
    for. What cannot be read is the shim's to tell."""
    try:
        document = json.loads((bundle / "supervise.json").read_bytes())
        spaces = json.loads((bundle / "config.json").read_bytes())["linux"]["namespaces"]
        if any(document.get(key) for key in (*messages.PROBES, "log", "tty", "stdin_open")):
            return False
        return any(space["type"] == "pid" for space in spaces)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


class Box:
    """One container. Its program is `/bin/sh -c script`."""

    def __init__(self, directory: Path) -> None:
        self.id = "shimtest" + uuid.uuid4().hex[:12]
        self.bundle, self.live = directory / "root" / self.id, directory / "run" / self.id
        self.rootfs = self.live / "rootfs"
        self.cgroup = f"stead.slice/{self.id}"
        self.host = cgroups.detect()
        self.zygote = forking.Zygote(directory)
        self.shims: set[tuple[int, int]] = set()
        self.supervise: dict[str, Any] = messages.supervise_document(
            id=self.id,
            name=f"test/{self.id}",
            cgroup=self.cgroup,
            restart={"policy": "no"},
            probe=None,
            stop_signal="SIGTERM",
            stop_timeout=10.0,
            log_max_size=MEBIBYTE,
            log_max_files=3,
            tty=False,
            stdin_open=False,
            restarts={},
            events_socket=str(directory / "run" / "events.sock"),
        )
        self.config: dict[str, Any] = {
            "ociVersion": "1.1.0",
            "process": {
                "terminal": False,
                "args": ["/bin/true"],
                "env": ["PATH=/bin", "HOME=/"],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0, "additionalGids": [], "umask": 0o022},
                "capabilities": {
                    kind: ["CAP_KILL"] if kind != "ambient" else []
                    for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
                },
                "rlimits": [],
                "noNewPrivileges": False,
            },
            "root": {"path": str(self.rootfs), "readonly": False},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                },
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("mount", "cgroup", "pid", "ipc", "uts")],
                "cgroupsPath": self.cgroup,
                "maskedPaths": [],
                "readonlyPaths": [],
                "sysctl": {},
                "devices": [],
                "resources": {"devices": [{"allow": True, "access": "rwm"}]},
                "rootfsPropagation": "private",
            },
            "annotations": {"stead.seccomp": "unconfined"},
        }

    def make(self) -> None:
        for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
            (self.rootfs / name).mkdir(parents=True)
        shutil.copy(BUSYBOX, self.rootfs / "bin" / "busybox")
        for applet in (
            "sh",
            "sleep",
            "cat",
            "echo",
            "true",
            "kill",
            "nc",
            "httpd",
            "stty",
            "setsid",
            "yes",
            "head",
        ):
            (self.rootfs / "bin" / applet).symlink_to("busybox")
        self.bundle.mkdir(parents=True)
        self.host.create(self.cgroup)

    def with_network(self) -> None:
        netns = self.live / "netns"
        namespaces.create_netns(netns)
        self.config["linux"]["namespaces"].append({"type": "network", "path": str(netns)})

    def with_host_pids(self) -> None:
        spaces = self.config["linux"]["namespaces"]
        self.config["linux"]["namespaces"] = [entry for entry in spaces if entry["type"] != "pid"]

    def with_terminal(self) -> None:
        self.supervise["tty"] = self.config["process"]["terminal"] = True

    def script(self, text: str) -> None:
        self.config["process"]["args"] = ["/bin/sh", "-c", text]

    def spawn(self, text: str = "", **supervise: Any) -> client.State:
        """Write the bundle and start it; returns the state once it runs (or has ended)."""
        if text:
            self.script(text)
        self.supervise.update(supervise)
        (self.bundle / "config.json").write_text(json.dumps(self.config))
        (self.bundle / "supervise.json").write_text(json.dumps(self.supervise))
        (self.bundle / "exit.json").unlink(missing_ok=True)
        spawn(self.zygote, self.bundle, self.live)
        return self.state()

    def state(self) -> client.State:
        state = client.read_state(self.live)
        assert state is not None
        self.shims.add((state.shim_pid, state.shim_start))
        return state

    def ended(self) -> client.State:
        """Wait for the exit record."""
        state = until(lambda: client.read_exit(self.bundle))
        assert isinstance(state, client.State)
        return state

    def process(self, *args: str) -> dict[str, Any]:
        return {**self.config["process"], "args": list(args)}

    def output(self) -> bytes:
        from runtime import logs

        return b"".join(data for _, _, data in logs.read(self.bundle / "log", raw=True))

    def clean(self) -> None:
        for pid, start in self.shims:
            pidfd.kill(pid, start, signal.SIGKILL)
            until(lambda pid=pid, start=start: not pidfd.is_alive(pid, start))
        self.host.kill(self.cgroup)
        for fd in rescue.take(str(self.live.parent.parent), self.id):  # or it is held for an hour
            os.close(fd)
        self.host.remove(self.cgroup)
        if (self.live / "netns").exists():
            namespaces.delete_netns(self.live / "netns")
        self.zygote.close()


@contextmanager
def box(directory: Path) -> Iterator[Box]:
    made = Box(directory)
    made.make()
    descriptors = set(os.listdir("/proc/self/fd"))
    try:
        yield made
    finally:
        if client.read_state(made.live) is not None:
            made.state()
        made.clean()
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
