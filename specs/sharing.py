"""Decisions: what a container cannot have for itself because it shares a namespace with the host."""

from __future__ import annotations

from specs.declared import Declared, Index
from specs.documents import Container
from specs.limits import Wrong

#: What belongs to the container whose network another one has.
_OF_THE_NETWORK = (
    "ports",
    "publish_all",
    "hostname",
    "domainname",
    "dns",
    "dns_search",
    "dns_opt",
    "extra_hosts",
)


def check(model: Container, wrong: Wrong) -> None:
    """Reports every field that would have no effect, or one on the whole machine."""
    if model.uts == "host":
        for key in ("hostname", "domainname"):
            if getattr(model, key):
                wrong((key,), 'it is the host\'s with uts "host"', "leave one of them out", at_key=True)
    if model.ipc == "host" and model.shm_size:
        wrong(("shm_size",), 'it is the host\'s with ipc "host"', "leave one of them out", at_key=True)
    _check_ids(model, wrong)
    for key in model.sysctls or {}:
        shared = "network_mode" if key.startswith("net.") else "ipc"
        if shared == "network_mode" and network_owner(model):
            text = f"kernel setting {key!r} is a matter of {network_owner(model)!r}, whose network it has"
            wrong(("sysctls",), text, at_key=True)
        elif getattr(model, shared) == "host":
            text = f'kernel setting {key!r} is the whole machine\'s with {shared} "host"'
            wrong(("sysctls",), text, at_key=True)


def _check_ids(model: Container, wrong: Wrong) -> None:
    """A user namespace has power over namespaces that belong to it only: those of the host do not."""
    keys = [key for key in ("userns", "userns_mode") if getattr(model, key)]
    if len(keys) == 2 and model.userns != model.userns_mode:
        wrong(("userns_mode",), "userns says something else", "leave one of them out", at_key=True)
    if not any(getattr(model, key)[0] == "auto" for key in keys):
        return
    for key in ("pid", "ipc", "network_mode"):
        if getattr(model, key) == "host":
            text = f'ids of its own (userns) do not go with {key} "host"'
            wrong((key,), text, "leave one of them out", at_key=True)
    if model.privileged:
        text = "ids of its own (userns) leave a privileged container without privileges"
        wrong(("privileged",), text, "leave one of them out", at_key=True)


def network_owner(model: Container) -> str:
    """The name, as written, of the container whose network it has; empty: none's."""
    kind, _, name = (model.network_mode or "").partition(":")
    return name if kind == "container" else ""


def _has_replicas(model: Container) -> bool:
    said = (model.replicas, model.scale, model.deploy.replicas if model.deploy else None)
    return any(count is not None for count in said)


def network_mode(declared: Declared, model: Container, index: Index, wrong: Wrong) -> str:
    """With the full name of the container whose network it has; what belongs to that one is a problem."""
    name = network_owner(model)
    if not name:
        return model.network_mode or "bridge"
    full, path = index.full_name(declared.project, name), ("network_mode",)
    other = index.get("container", full)
    if other is None:
        wrong(path, f"no container {name!r}", index.hint("container", declared.project, name))
    elif other is declared:
        wrong(path, "a container cannot have its own network from itself")
    elif isinstance(other.model, Container):
        if network_owner(other.model):
            wrong(path, f"{name!r} has the network of {network_owner(other.model)!r}: name that one")
        elif other.model.network_mode == "host":
            wrong(path, f"{name!r} has the host's network", "write host")
        elif _has_replicas(other.model):
            wrong(path, f"{name!r} has replicas, each with a network of its own")
    for key in _OF_THE_NETWORK:
        if getattr(model, key, None):
            wrong((key,), f"it is a matter of {name!r}, whose network it has", "write it there", at_key=True)
    return f"container:{full}"
