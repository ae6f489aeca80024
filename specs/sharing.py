"""Decisions: what a container cannot have for itself because it shares a namespace with the host."""

from __future__ import annotations

from specs.declared import Declared, Index
from specs.documents import Container
from specs.limits import Wrong
from specs.positions import Path
from specs.replicas import replica_count

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
#: What belongs to the container whose namespace of another kind it has.
_OF_THE_NAMESPACE = {"uts": ("hostname", "domainname"), "ipc": ("shm_size",)}
_OWN = {"volumes": "volumes of its own"}


def check(model: Container, wrong: Wrong) -> None:
    """Reports every field that would have no effect, or one on the whole machine."""
    if model.uts == "host":
        for key in ("hostname", "domainname"):
            if getattr(model, key):
                wrong((key,), 'it is the host\'s with uts "host"', "leave one of them out", at_key=True)
    if model.ipc == "host" and model.shm_size:
        wrong(("shm_size",), 'it is the host\'s with ipc "host"', "leave one of them out", at_key=True)
    if model.ipc == "none" and model.shm_size:
        wrong(("shm_size",), 'there is no /dev/shm with ipc "none"', "leave one of them out", at_key=True)
    _check_ids(model, wrong)
    for key in model.sysctls or {}:
        shared = "network_mode" if key.startswith("net.") else "ipc"
        if shared == "network_mode" and network_owner(model):
            text = f"kernel setting {key!r} is a matter of {network_owner(model)!r}, whose network it has"
            wrong(("sysctls",), text, at_key=True)
        elif shared == "ipc" and _named(model.ipc):
            text = f"kernel setting {key!r} is a matter of {_named(model.ipc)!r}, whose ipc namespace it has"
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
    for key in ("pid", "ipc", "uts"):
        if owner := _named(getattr(model, key)):
            text = f"ids of its own (userns) do not go with the {key} namespace of {owner!r}"
            wrong((key,), text, "leave one of them out", at_key=True)
    if model.privileged:
        text = "ids of its own (userns) leave a privileged container without privileges"
        wrong(("privileged",), text, "leave one of them out", at_key=True)


def network_owner(model: Container) -> str:
    """The name, as written, of the container whose network it has; empty: none's."""
    return _named(model.network_mode)


def _named(mode: str | None) -> str:
    kind, _, name = (mode or "").partition(":")
    return name if kind == "container" else ""


def owners(model: Container) -> list[str]:
    """The names, as written, of those that must be there first: it has a namespace or volumes of theirs."""
    modes = (_named(mode) for mode in (model.network_mode, model.pid, model.ipc, model.uts))
    inherited = (name for name, _ in model.volumes_from or ())
    return list(dict.fromkeys(name for name in (*modes, *inherited) if name))


def network_mode(declared: Declared, model: Container, index: Index, wrong: Wrong) -> str:
    """With the full name of the container whose network it has; what belongs to that one is a problem."""
    name, path = network_owner(model), ("network_mode",)
    if not name:
        return model.network_mode or "bridge"
    full, other = _owner(path, name, declared, index, wrong, "network")
    if other is not None:
        if network_owner(other):
            wrong(path, f"{name!r} has the network of {network_owner(other)!r}: name that one")
        elif other.network_mode == "host":
            wrong(path, f"{name!r} has the host's network", "write host")
    for key in _OF_THE_NETWORK:
        if getattr(model, key, None):
            wrong((key,), f"it is a matter of {name!r}, whose network it has", "write it there", at_key=True)
    return f"container:{full}"


def mode(kind: str, declared: Declared, model: Container, index: Index, wrong: Wrong) -> str:
    """Of `pid`, `ipc` and `uts`: empty for a namespace of its own, else host, shareable, none, or with the
    full name of the container that has it."""
    written: str = getattr(model, kind) or "private"
    name, path = _named(written), (kind,)
    if not name:
        return "" if written == "private" else written
    full, other = _owner(path, name, declared, index, wrong, f"{kind} namespace")
    theirs = getattr(other, kind) if other is not None else None
    if _named(theirs):
        wrong(path, f"{name!r} has the {kind} namespace of {_named(theirs)!r}: name that one")
    elif theirs == "host":
        wrong(path, f"{name!r} has the host's {kind} namespace", "write host")
    elif other is not None and kind == "ipc" and theirs != "shareable":
        wrong(path, f"{name!r} does not share its memory", f'write ipc = "shareable" in {name}')
    for key in _OF_THE_NAMESPACE.get(kind, ()):
        if getattr(model, key, None):
            text = f"it is a matter of {name!r}, whose {kind} namespace it has"
            wrong((key,), text, "write it there", at_key=True)
    return f"container:{full}"


def volumes_from(
    declared: Declared, model: Container, index: Index, wrong: Wrong
) -> tuple[tuple[str, bool], ...]:
    """(full name, read only)."""
    found = []
    for number, (name, read_only) in enumerate(model.volumes_from or ()):
        full, _ = _owner(("volumes_from", number), name, declared, index, wrong, "volumes")
        found.append((full, read_only))
    return tuple(found)


def inactive(other: Declared) -> tuple[str, str]:
    """What is wrong with a container that waits for `other`, and the cure."""
    names = " and ".join(other.inactive)
    text = f"container {other.name!r} is not there: none of its profiles ({names}) is asked for"
    return text, f"--profile {other.inactive[0]}, or profiles of the source in the settings"


def _owner(
    path: Path, name: str, declared: Declared, index: Index, wrong: Wrong, what: str
) -> tuple[str, Container | None]:
    """The full name of the container that `what` is of, and what it declares where that is sound."""
    full = index.full_name(declared.project, name)
    other = index.get("container", full)
    if other is None:
        wrong(path, f"no container {name!r}", index.hint("container", declared.project, name))
    elif other.inactive:
        wrong(path, *inactive(other))
    elif other is declared:
        wrong(path, f"a container cannot have its own {what} from itself")
    elif isinstance(other.model, Container):
        if replica_count(other.model) is not None:
            wrong(path, f"{name!r} has replicas, each with {_OWN.get(what, f'a {what} of its own')}")
        return full, other.model
    return full, None
