"""Decisions: how many containers one [container.NAME] stands for."""

from __future__ import annotations

from typing import Any

from specs.documents import Container


def replica_count(model: Container, wrong: Any = None) -> int | None:
    """How many, when the container says so in one of three ways; None: it is one, without a number."""
    written = {"replicas": model.replicas, "scale": model.scale}
    written["deploy.replicas"] = model.deploy.replicas if model.deploy else None
    said = {key: count for key, count in written.items() if count is not None}
    if wrong is not None and len(set(said.values())) > 1:
        key = list(said)[-1]
        wrong(tuple(key.split(".")), f"{' and '.join(said)} contradict each other", at_key=True)
    return next(iter(said.values()), None)
