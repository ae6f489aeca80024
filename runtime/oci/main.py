"""Effects: the command `stead oci`: runc's command line on the code that shims use, without an agent.

Exit codes as runc's: 1 for what failed, 255 for an exec that did, else the program's.
"""

from __future__ import annotations

import os
import sys

from runtime.oci import arguments
from runtime.oci.failure import OciFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

RELEASE = "0.1.0"
_HELP = """\
stead oci: run containers as the OCI runtime specification and runc's command line have it

usage: stead oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND [OPTIONS] [WORDS]

"""


def main(words: Sequence[str]) -> int:
    _open_closed()
    log, call = _Log("", "text", debug=False), arguments.Call({}, "", {}, [])
    try:
        call = arguments.parse(words)
        log = _open_log(call.general)
        if call.general.get("version"):
            from runtime.oci import documents

            say(documents.version(RELEASE))
            return 0
        if call.general.get("help"):
            say(_help(call.command))
            return 0
        return _run(call, log, words)
    except OciFailure as failure:
        log.write("error", failure.message)
        return 255 if call.command == "exec" else failure.code
    except BrokenPipeError:
        return 1
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        text = explain(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        log.write("error", f"cannot {call.command or 'start'}: {text}")
        if call.general.get("debug"):
            raise
        return 255 if call.command == "exec" else 1


def _open_closed() -> None:
    """What is opened later is not to become a stream; whoever uses one that was closed still finds it so."""
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", flags), True)


def say(text: str, fd: int = 1) -> None:
    """At once and whole: nothing is kept that would fail after the exit code is known."""
    data = os.fsencode(text)
    while data:
        data = data[os.write(fd, data) :]


def _complain(text: str) -> None:
    try:
        say(text, 2)
    except OSError:
        pass  # there is nobody to tell


class _Log:
    """Where engines read what went wrong; people read it on standard error."""

    def __init__(self, path: str, format: str, *, debug: bool) -> None:
        self._path, self._json, self.debug = path, format == "json", debug

    def write(self, level: str, text: str) -> None:
        import time

        from runtime.linux.jsontext import encode

        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._json:
            line = encode({"level": level, "msg": text, "time": moment}).decode()
        else:
            line = f'time="{moment}" level={level} msg={encode(text).decode()}'
        if self._path:
            try:
                fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
                os.write(fd, f"{line}\n".encode())
                os.close(fd)
            except OSError as error:
                _complain(f"stead oci: cannot write {self._path}: {error.strerror}\n")
            if level != "error":
                return
            line = text
        _complain(f"{line}\n")

    def warn(self, text: str) -> None:
        self.write("warning", text)


def _open_log(general: dict[str, Any]) -> _Log:
    format = general.get("log-format") or "text"
    if format not in ("text", "json"):
        raise OciFailure(f"unknown log-format {format!r}")
    return _Log(str(general.get("log") or ""), format, debug=bool(general.get("debug")))


def _help(command: str) -> str:
    known = arguments.COMMANDS
    if command:
        options = "".join(f"  --{name}\n" for name in known[command])
        return f"usage: stead oci {command} [OPTIONS]\n\n{options}"
    return _HELP + "commands: " + ", ".join(known) + "\n"


def _run(call: arguments.Call, log: _Log, words: Sequence[str]) -> int:
    if call.command in ("create", "run", "exec"):
        _seal(words)
    from runtime.oci import verbs

    root = os.path.abspath(str(call.general.get("root") or arguments.ROOT))
    manager = call.general.get("cgroup-manager") or "cgroupfs"
    if manager not in ("cgroupfs", "systemd"):
        raise OciFailure(f"unknown cgroup manager {manager!r}: it is cgroupfs or systemd")
    systemd = manager == "systemd" or bool(call.general.get("systemd-cgroup"))
    code: int = getattr(verbs, f"run_{call.command}")(call, root, systemd, log.warn)
    return code


def _seal(words: Sequence[str]) -> None:
    """Go on as an interpreter on a read-only mount of nothing but itself: until its exec the first process of
    a container is this program, and an image may run /proc/self/exe (CVE-2019-5736)."""
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return
    from runtime.linux import mounts

    fd = mounts.open_tree(os.path.realpath(sys.executable), recursive=False)
    mounts.set_attributes(fd, set=mounts.MOUNT_ATTR_RDONLY)
    environment, library = dict(os.environ), _library()
    if library:
        environment["LD_LIBRARY_PATH"] = library
    entry = os.path.join(os.path.dirname(os.path.abspath(__file__)), "entry.py")
    os.execve(f"/proc/self/fd/{fd}", [sys.executable, "-I", "-S", entry, *words], environment)


def _library() -> str:
    """The directory of the interpreter's library, which it may look for beside itself; empty where it has
    none."""
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            if b"/libpython" in line:
                return os.path.dirname(os.fsdecode(line.split(None, 5)[5].rstrip(b"\n")))
    return ""
