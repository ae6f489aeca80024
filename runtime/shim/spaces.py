"""Effects: namespaces that a plain fork does not give: those joined by path, user namespaces with their
mappings, clocks of its own.

A process between the shim and the container's first one enters them, since nobody comes back from a user
namespace, and since pid and time namespaces are for children only: namespaces(7), user_namespaces(7),
time_namespaces(7). What takes the host's rights or files is opened before. Files of /proc that only a process
outside may write are written by a helper, which ends with it.
"""

from __future__ import annotations

import os

from runtime.linux import fork, namespaces
from runtime.shim import entries, identity, root, sysctls, tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Config = dict[str, Any]

_CHILDREN = ("pid", "time")
_MAPS, _CLOCKS = b"m", b"c"


def is_plain(config: Config) -> bool:
    """Whether a fork with new namespaces, in others that are joined, is all that the container needs."""
    for space in config["linux"]["namespaces"]:
        kind = space["type"]
        if kind in ("user", "time") or (space.get("path") and kind in ("mount", "cgroup")):
            return False
    return not any(entries.is_mapped(entry) for entry in config.get("mounts") or ())


def run(
    config: Config,
    *,
    rootfs: str,
    stdio: tuple[int, int, int],
    report_fd: int,
    announce: int,
    strict: bool,
    program: Callable[[root.Prepared], NoReturn],
) -> None:
    """Enter all namespaces of `config` but the network that is joined (the caller is in it), fork `program`
    as a child of this process's parent, and write its pid to `announce`. `strict` as root.prepare has it.
    Returns in this process only."""
    spaces = {space["type"]: space.get("path") for space in config["linux"]["namespaces"]}
    tty.give(stdio, identity.outside(config, config["process"]), report_fd)
    prepared = root.prepare(config, rootfs, userns="user" in spaces, strict=strict)
    if prepared.userns and spaces.get("network"):
        sysctls.apply(config, spaces, joined=True, early=True)
    offsets = config["linux"].get("timeOffsets") or {}
    with _Helper(config, offsets) as helper:
        _join({kind: path for kind, path in spaces.items() if path and kind != "network"})
        fresh = {kind for kind, path in spaces.items() if not path}
        if "user" in fresh:
            namespaces.unshare(namespaces.CLONE_NEWUSER)
            helper.do(_MAPS)
        if "user" in spaces:
            identity.become_root()
        namespaces.unshare(sum(namespaces.FLAGS[kind] for kind in fresh - {"user"}))
        if offsets:
            helper.do(_CLOCKS)
    pid = _fork()
    if pid == 0:
        os.close(announce)
        program(prepared)
    os.write(announce, str(pid).encode())


def _fork() -> int:
    """The new process is the child of this one's parent."""
    try:
        return fork.fork(fork.CLONE_PARENT)
    except OSError as error:
        if not fork.unsupported(error):
            raise
    return os.fork()  # becomes the shim's when this process ends: it is the subreaper


def _join(paths: dict[str, str]) -> None:
    """The user namespace last: until then this process may enter namespaces that are owned by others."""
    opened = {}
    for kind in sorted(paths, key=lambda kind: kind == "user"):
        opened[kind] = os.open(paths[kind], os.O_RDONLY | os.O_CLOEXEC)
    for kind, fd in opened.items():
        try:
            namespaces.setns(fd, namespaces.FLAGS[kind])
        except OSError as error:
            text = f"join {kind} namespace: {(error.strerror or '').removeprefix('setns: ')}"
            raise OSError(error.errno, text, paths[kind]) from None
        os.close(fd)


class _Helper:
    """A process that stays outside. An error of it is the caller's."""

    def __init__(self, config: Config, offsets: dict[str, dict[str, int]]) -> None:
        self._config, self._offsets = config, offsets
        ours, theirs = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        caller = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(theirs[1])
            os.close(ours[0])
            self._serve(caller, theirs[0], ours[1])
        os.close(theirs[0])
        os.close(ours[1])
        self._answers, self._orders = ours[0], theirs[1]

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._orders)
        os.close(self._answers)
        os.waitpid(self._pid, 0)

    def do(self, order: bytes) -> None:
        os.write(self._orders, order)
        answer = os.read(self._answers, 4096)
        if answer != order:
            number, _, text = answer.decode(errors="replace").partition(" ")
            raise OSError(int(number or 0), text or "the helper outside of the user namespace has ended")

    def _serve(self, caller: int, orders: int, answers: int) -> NoReturn:
        try:
            while order := os.read(orders, 1):
                try:
                    self._obey(order, caller)
                    os.write(answers, order)
                except OSError as error:
                    what = "write id mappings" if order == _MAPS else "set time offsets"
                    os.write(answers, f"{error.errno} {what}: {error.strerror}".encode())
        finally:
            os._exit(0)

    def _obey(self, order: bytes, caller: int) -> None:
        linux = self._config["linux"]
        if order == _MAPS:
            namespaces.write_id_maps(caller, linux.get("uidMappings") or (), linux.get("gidMappings") or ())
            return
        for clock, offset in self._offsets.items():
            line = f"{clock} {int(offset.get('secs') or 0)} {int(offset.get('nanosecs') or 0)}\n"
            with open(f"/proc/{caller}/timens_offsets", "wb", buffering=0) as file:
                file.write(line.encode())
