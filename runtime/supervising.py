"""Decisions: what a container's shim is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from runtime import bundle
from runtime.images.store import StoredImage
from runtime.paths import Paths
from runtime.records import ContainerRecord
from runtime.restarts import Restarts
from runtime.shim import messages
from runtime.wishes import ContainerRequest, ProbeRequest


def document(
    paths: Paths,
    record: ContainerRecord,
    request: ContainerRequest,
    image: StoredImage,
    restarts: Restarts,
    *,
    cgroup: str,
) -> dict[str, Any]:
    """The content of supervise.json."""
    config = image.config.get("config") or {}
    probe, shell = bundle.probe(request, config), config.get("Shell") or []
    return messages.supervise_document(
        id=record.id,
        name=record.name,
        cgroup=cgroup,
        restart=asdict(request.restart),
        probe=_probe_document(probe, shell),
        startup=_probe_document(request.startup, shell),
        readiness=_probe_document(request.readiness, shell),
        stop_signal=bundle.stop_signal(request, config),
        stop_timeout=request.stop_grace_period,
        log_max_size=request.log_max_size,
        log_max_files=request.log_max_files,
        tty=request.tty,
        stdin_open=request.stdin_open,
        restarts=restarts.reasons,
        streak=restarts.streak,
        attempts=restarts.attempts,
        events_socket=str(paths.events_socket),
        events_log=str(paths.events),
        oom_score_adj=request.oom_score_adj,
        brief=bool(request.auto_remove),
    )


def _probe_document(probe: ProbeRequest | None, shell: Sequence[str]) -> dict[str, Any] | None:
    """`shell` is the image's SHELL, which a line is given to; empty: the shim's, /bin/sh."""
    if probe is None:
        return None
    if probe.shell and shell:
        probe = replace(probe, exec=(*shell, probe.shell), shell="")
    return {key: v for key, v in asdict(probe).items() if key != "given"}


def will_be_idle(request: ContainerRequest, image: StoredImage) -> bool:
    """Whether the container's shim has nothing to probe, no terminal or input to serve, no strangers' orphans
    to wait for, and nobody who waits for its end (a whole shim starts sooner). Fault request-invalid for a
    probe that tests nothing."""
    if request.tty or request.stdin_open or request.pid_mode == "host" or request.auto_remove == "attended":
        return False
    if request.startup is not None or request.readiness is not None or request.logger.driver != "local":
        return False
    return bundle.probe(request, image.config.get("config") or {}) is None
