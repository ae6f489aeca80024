"""Decisions: how a changed container is replaced, from what its specs say: `update`, `rollback`, or Compose's
`deploy.update_config` and `deploy.rollback_config`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specs.desired import Update
from specs.documents import Container
from specs.policies import Update as Written

#: seconds that a new container must do well after it is ready, where nothing is said
MONITOR = 2.0

Wrong = Callable[..., None]
Path = tuple[str | int, ...]


def of(model: Container, wrong: Wrong) -> tuple[Update, Update]:
    """(how it is updated, how it is rolled back: as it is updated, where nothing else is said)"""
    deploy = model.deploy
    forward = _one(
        model,
        wrong,
        Update(monitor=MONITOR),
        "update",
        model.update,
        deploy.update_config if deploy else None,
    )
    default = replace(forward, failure_action="pause", delay=0.0)
    back = _one(model, wrong, default, "rollback", model.rollback, deploy.rollback_config if deploy else None)
    return forward, back


def _one(
    model: Container, wrong: Wrong, default: Update, key: str, flat: Written | None, compose: Written | None
) -> Update:
    path: Path = (key,) if flat is not None else ("deploy", f"{key}_config")
    if flat is not None and compose is not None:
        wrong(("deploy", f"{key}_config"), f"`{key}` says the same; leave one out", at_key=True)
    written = flat or compose
    if written is None:
        return default
    if written.order == "start-first" and (alone := _alone(model)):
        wrong((*path, "order"), f"start-first: two of it cannot have {alone} at once")
    ratio = written.max_failure_ratio or 0.0
    if ratio > 1:
        wrong((*path, "max_failure_ratio"), f"{ratio:g} is more than 1, which is all replicas")
    if key == "rollback" and written.failure_action == "rollback":
        wrong((*path, "failure_action"), "a rollback that fails goes nowhere: pause or continue")
    said = {name: getattr(written, name) for name in Written.model_fields}
    return replace(default, **{name: value for name, value in said.items() if value is not None})


def _alone(model: Container) -> str:
    """What only one container at a time can have."""
    for network, one in (model.networks or {}).items():
        for key in ("ipv4_address", "ipv6_address", "mac_address"):
            if getattr(one, key, None):
                return f"{key} in network {network!r}"
    return "network_mode 'host'" if model.network_mode == "host" else ""
