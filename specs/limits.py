"""Decisions: a container's resource limits, from the flat fields or from Compose's deploy.resources."""

from __future__ import annotations

from typing import Any, Protocol

from specs.desired import IoLimit, Limits
from specs.documents import Container
from specs.positions import Path

#: Microseconds; the kernel's own.
PERIOD = 100_000


class Wrong(Protocol):
    """Reports a problem at a path of the container."""

    def __call__(self, path: Path, text: str, hint: str = "", *, at_key: bool = False) -> None: ...


def of(model: Container, wrong: Wrong) -> Limits:
    """0 or empty where nothing was asked for."""
    resources = model.deploy.resources if model.deploy else None
    upper = resources.limits if resources else None
    lower = resources.reservations if resources else None

    def either(key: str, flat: Any, deployed: Any, *path: str) -> Any:
        if flat is not None and deployed is not None and flat != deployed:
            wrong(("deploy", "resources", *path), f"`{key}` says something else; leave one out")
        return flat if flat is not None else deployed

    memory = either("memory", model.memory, upper and upper.memory, "limits", "memory") or 0
    reservation = either(
        "memory_reservation", model.memory_reservation, lower and lower.memory, "reservations", "memory"
    )
    pids = either("pids", model.pids, upper and upper.pids, "limits", "pids") or 0
    swap = model.memory_swap or 0
    if swap and not memory:
        wrong(("memory_swap",), "memory_swap needs memory: it is memory and swap together")
    elif 0 < swap < memory:
        wrong(("memory_swap",), "memory_swap is memory and swap together: it cannot be less than memory")
    if reservation and memory and reservation > memory:
        wrong(("memory_reservation",), "memory_reservation is above memory")
    return Limits(
        cpus=either("cpus", _cpus(model, wrong), upper and upper.cpus, "limits", "cpus") or 0.0,
        cpu_weight=_weight(model, wrong),
        cpuset=model.cpuset or "",
        memory=memory,
        memory_reservation=reservation or 0,
        memory_swap=swap,
        pids=max(pids, 0),
        io_weight=model.io_weight or 0,
        io=tuple(
            IoLimit(
                one.device, one.read_bps or 0, one.write_bps or 0, one.read_iops or 0, one.write_iops or 0
            )
            for one in sorted(model.io or (), key=lambda one: one.device)
        ),
        hugepages=tuple(sorted((model.hugepages or {}).items())),
        swappiness=-1 if model.mem_swappiness is None else model.mem_swappiness,
    )


def _cpus(model: Container, wrong: Wrong) -> float | None:
    """`cpu_quota` of each `cpu_period` in Compose's words is so many processors."""
    quota, period = model.cpu_quota, model.cpu_period or PERIOD
    if model.cpu_period is not None and not 1000 <= model.cpu_period <= 1_000_000:
        wrong(("cpu_period",), "a period has 1000 to 1000000 microseconds")
        return None
    if quota is None:
        if model.cpu_period is not None:
            wrong(("cpu_period",), "it says nothing without cpu_quota", "write cpus", at_key=True)
        return model.cpus
    if model.cpus is not None:
        wrong(("cpu_quota",), "`cpus` says the same; leave one out", at_key=True)
    if 0 <= quota < 1000:
        wrong(("cpu_quota",), "a quota has 1000 microseconds or more, or is -1 for no limit")
    return quota / period if quota >= 1000 else None


def _weight(model: Container, wrong: Wrong) -> int:
    """`cpu_shares` has 1024 where the weight has 100."""
    if model.cpu_shares is None:
        return model.cpu_weight or 0
    if model.cpu_weight is not None:
        wrong(("cpu_shares",), "`cpu_weight` says the same; leave one out", at_key=True)
    return min(10_000, max(1, round(model.cpu_shares * 100 / 1024))) if model.cpu_shares else 0
