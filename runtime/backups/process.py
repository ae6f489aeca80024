"""Effects: start the worker of a backup and hear what it has to say."""

from __future__ import annotations

import ast
import errno
import subprocess
import sys
import threading
from collections.abc import Collection
from typing import Any

from runtime.faults import Fault
from runtime.images.layers import module_path

_BOOT = (
    "import sys; sys.path += sys.argv[1].split(chr(10)); from runtime.backups.worker import start; start()"
)
#: seconds between two looks at whether it is still wanted
_LOOK = 0.2
MAX_REPORT = 64 * 1024  # bytes


def run(
    operation: str, subject: str, *words: str | int, fds: Collection[int], cancelled: threading.Event
) -> dict[str, Any]:
    """What the worker reports; `words` are runtime.backups.worker's. Fault where something went wrong, or
    where `cancelled` is set meanwhile; it has ended then."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, module_path(), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=tuple(fds),
        cwd="/",
        env={},
    )
    with process:
        try:
            while True:
                try:
                    said, trouble = process.communicate(timeout=_LOOK)
                    break
                except subprocess.TimeoutExpired:
                    if cancelled.is_set():
                        cause = "the agent ends"
                        raise Fault("kernel-error", operation, subject, cause, "it is tried again") from None
        except BaseException:
            process.kill()
            raise
    return _heard(operation, subject, said, trouble, process.returncode)


def _heard(operation: str, subject: str, said: bytes, trouble: bytes, code: int) -> dict[str, Any]:
    try:
        found: object = ast.literal_eval(said[:MAX_REPORT].decode())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, dict):
        last = trouble.decode(errors="replace").strip().splitlines()[-1:] or [f"status {code}"]
        raise Fault("kernel-error", operation, subject, f"the worker died: {last[0].lower()}")
    if "error" not in found:
        return found
    cause = f"{found['entry']!r}: {found['error']}" if found["entry"] else str(found["error"])
    number = int(found["errno"])
    if number in (errno.ENOSPC, errno.EDQUOT):
        raise Fault("disk-full", operation, subject, cause)
    raise Fault("kernel-error" if number else "backup-invalid", operation, subject, cause)
