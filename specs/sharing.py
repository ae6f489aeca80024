"""Decisions: what a container cannot have for itself because it shares a namespace with the host."""

from __future__ import annotations

from specs.documents import Container
from specs.limits import Wrong


def check(model: Container, wrong: Wrong) -> None:
    """Reports every field that would have no effect, or one on the whole machine."""
    if model.uts == "host":
        for key in ("hostname", "domainname"):
            if getattr(model, key):
                wrong((key,), 'it is the host\'s with uts "host"', "leave one of them out", at_key=True)
    if model.ipc == "host" and model.shm_size:
        wrong(("shm_size",), 'it is the host\'s with ipc "host"', "leave one of them out", at_key=True)
    for key in model.sysctls or {}:
        shared = "network_mode" if key.startswith("net.") else "ipc"
        if getattr(model, shared) == "host":
            text = f'kernel setting {key!r} is the whole machine\'s with {shared} "host"'
            wrong(("sysctls",), text, at_key=True)
