"""Effects: one RUN step, from its mounts to its last process. Runs in a process forked by the worker.

A job says: `trees` (overlays to mount, in order: lowers TOP first, upper, work, at), `config` (an OCI
config.json), `cgroup` and `limits`, `devices` (rules of the device cgroup), `alone`: without any network.
Nothing outlives the step: when its first process ends, everything else in its cgroup is killed."""

from __future__ import annotations

import json
import os
import select

from runtime.linux import mounts, namespaces, overlay
from runtime.linux.limits import Limits
from runtime.shim import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.linux.cgroups import Cgroups

    Job = dict[str, Any]

#: Seconds that killed processes of a step are given to end.
KILL_TIMEOUT = 10.0


def run(job: Job, output: int, answers: int, host: Cgroups) -> None:
    """Answers, and returns when nothing of the step is left."""
    cgroup = str(job["cgroup"])
    try:
        answer = _run(job, output, answers, host, cgroup)
    except BaseException as error:
        answer = {"failed": _text(error), "exit": launch.FAILED}
    try:
        _clear(host, cgroup)
    except OSError as error:
        answer.setdefault("failed", _text(error))
    _say(answers, answer)


def _run(job: Job, output: int, answers: int, host: Cgroups, cgroup: str) -> dict[str, Any]:
    host.create(cgroup)
    host.allow_devices(cgroup, job["devices"])
    if job["limits"]:
        host.apply(cgroup, Limits(**job["limits"]))
    if job["alone"]:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        namespaces.raise_loopback()
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.make_private("/", kind="rprivate")
    for tree in job["trees"]:
        overlay.mount(tree["lowers"], tree.get("upper"), tree.get("work"), tree["at"])
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    launcher = launch.Launcher(job["config"], str(job["bundle"]), cgroup, host)
    child = launcher.start((null, output, output), None)
    os.close(output)
    os.close(null)
    try:
        failure = _started(child, answers)
        if failure is not None:
            return {"failed": failure.message, "exit": failure.exit_code}
        return _ended(child, answers, host, cgroup)
    finally:
        child.close()


def _started(child: launch.Child, answers: int) -> launch.Failure | None:
    poll = select.poll()
    poll.register(child.report, select.POLLIN)
    poll.poll()
    failure = launch.read_report(child)
    if failure is None:
        _say(answers, {"started": child.pid})
    return failure


def _ended(child: launch.Child, answers: int, host: Cgroups, cgroup: str) -> dict[str, Any]:
    """Until the program ends, or nobody wants to know any more."""
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    poll.register(answers, 0)  # POLLERR comes unasked: the reader is gone
    while (code := launch.exit_code(child)) is None:
        if any(fd == answers for fd, _ in poll.poll()):
            child.signal(9)
            host.kill(cgroup, KILL_TIMEOUT)
            return {"failed": "the build was ended", "exit": launch.FAILED}
    return {"exit": code, "oom": host.oom_kills(cgroup)}


def _clear(host: Cgroups, cgroup: str) -> None:
    host.kill(cgroup, KILL_TIMEOUT)
    host.remove(cgroup)


def _say(answers: int, answer: dict[str, Any]) -> None:
    try:
        os.write(answers, json.dumps(answer).encode() + b"\n")
    except OSError:
        pass


def _text(error: BaseException) -> str:
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}".lower()
    return f"{type(error).__name__}: {error}"
