"""Decisions: one [network.NAME] -> its DesiredNetwork, checked against the others of the source.

Compose's `ipam.config` and the flat words `subnet` and `gateway` mean the same; options of Docker's drivers
are taken where they have a meaning here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from specs.declared import Declared, Index
from specs.desired import DesiredNetwork
from specs.documents import Network
from specs.fingerprint import network_fingerprint
from specs.positions import Path
from specs.problems import Problem
from specs.shapes import NOT_YET
from specs.subnets import network_name

MTU = "com.docker.network.driver.mtu"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
PARENT, MODE = "parent", "macvlan_mode"
_OPTIONS = {"bridge": (MTU, ICC, MASQUERADE), "macvlan": (MTU, PARENT, MODE)}
_MODES = ("bridge", "private", "vepa", "passthru")

_Wrong = Callable[..., None]
AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Pool:
    """What a network has of one family; `path` is where its subnet is written."""

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    reserved: tuple[str, ...] = ()
    path: Path = ()

    @property
    def net(self) -> AnyNetwork | None:
        return ipaddress.ip_network(self.subnet) if self.subnet else None

    @property
    def router(self) -> str:
        """The gateway that it has: asked for, else the first address."""
        if self.gateway or not self.subnet:
            return self.gateway
        return str(ipaddress.ip_network(self.subnet).network_address + 1)


#: What an external network has from who made it.
_OWN = (
    "internal",
    "subnet",
    "gateway",
    "mtu",
    "labels",
    "driver",
    "driver_opts",
    "enable_ipv4",
    "enable_ipv6",
    "ipam",
    "prune",
)


def is_external(declared: Declared | None) -> bool:
    return declared is not None and isinstance(declared.model, Network) and bool(declared.model.external)


def name_of(index: Index, full: str) -> str:
    """What the network of this full name is called on the machine: an external one as it says."""
    declared = index.get("network", full)
    if declared is None or not isinstance(declared.model, Network) or not declared.model.external:
        return full
    return declared.model.name or network_name(declared.name)


def check_external(declared: Declared, model: Network) -> list[Problem]:
    """An external network says nothing else; any other has the name of its table."""
    if not model.external:
        hint = "it is called by its project and its table; a name is for external = true"
        text = f"a name of its own for a network: {NOT_YET}"
        return [declared.problem(("name",), text, hint)] if model.name else []
    return [
        declared.problem(
            (key,), f"an external network has no {key} here", "whoever makes it says so", at_key=True
        )
        for key in _OWN
        if getattr(model, key) is not None
    ]


def pools(model: Network, wrong: _Wrong = lambda *_, **__: None) -> tuple[Pool, Pool]:
    """That of IPv4 and that of IPv6, each empty where it is left to the node."""
    found = {four: Pool() for four in (True, False)}
    for text in model.subnet or ():
        found[":" not in text] = Pool(text, path=("subnet",))
    for text in model.gateway or ():
        pool = found[":" not in text]
        found[":" not in text] = replace(pool, gateway=text)
        if not pool.subnet and not (model.ipam and model.ipam.config):
            family = "" if ":" not in text else " of IPv6"
            wrong(("gateway",), f"a gateway{family} needs a subnet{family}", "write subnet too")
    for number, item in enumerate((model.ipam and model.ipam.config) or ()):
        path: Path = ("ipam", "config", number)
        if item.subnet is None:
            if item.gateway or item.ip_range or item.aux_addresses:
                wrong(path, "a pool needs a subnet", "write subnet too")
            continue
        four = ":" not in item.subnet
        if found[four].subnet:
            wrong((*path, "subnet"), f"the network has a subnet of IPv{4 if four else 6} already")
            continue
        aux = tuple((item.aux_addresses or {}).values())
        found[four] = Pool(item.subnet, item.gateway or "", item.ip_range or "", aux, (*path, "subnet"))
    return found[True], found[False]


def network_of(
    declared: Declared, model: Network, taken: list[tuple[AnyNetwork, Declared]], problems: list[Problem]
) -> DesiredNetwork:
    """`taken` are the subnets of networks before, and those of this one after."""

    def wrong(path: Path, text: str, hint: str = "", *, at_key: bool = False) -> None:
        problems.append(declared.problem(path, text, hint, at_key=at_key))

    four, six = pools(model, wrong)
    ipv6 = bool(model.enable_ipv6) or bool(six.subnet)
    if model.enable_ipv4 is False:
        wrong(("enable_ipv4",), f"a network without IPv4: {NOT_YET}", "leave enable_ipv4 out")
    if model.enable_ipv6 is False and six.subnet:
        wrong(("enable_ipv6",), f"it has the IPv6 subnet {six.subnet}", "write true, or leave out the subnet")
    if model.ipam and model.ipam.driver not in (None, "default"):
        wrong(("ipam", "driver"), f"an ipam driver {model.ipam.driver!r}: {NOT_YET}", "leave it out")
    if model.ipam and model.ipam.options:
        wrong(("ipam", "options"), f"options of ipam: {NOT_YET}", "leave them out")
    for pool in (four, six):
        _check_pool(declared, pool, taken, wrong)
    network = DesiredNetwork(
        declared.full,
        subnet=four.subnet,
        gateway=four.gateway,
        internal=bool(model.internal),
        mtu=model.mtu or 0,
        labels=model.labels or {},
        place=declared.place,
        ipv6=ipv6,
        subnet6=six.subnet,
        gateway6=six.gateway,
        driver=model.driver or "bridge",
        ip_range=four.ip_range,
        ip_range6=six.ip_range,
        reserved=four.reserved + six.reserved,
    )
    network = _with_options(network, model.driver_opts or {}, model, wrong)
    return replace(network, fingerprint=network_fingerprint(network))


def _check_pool(
    declared: Declared, pool: Pool, taken: list[tuple[AnyNetwork, Declared]], wrong: _Wrong
) -> None:
    net = pool.net
    if net is None:
        return
    base = pool.path[:-1]
    if pool.gateway and not is_host(pool.gateway, net):
        wrong((*base, "gateway"), f"gateway {pool.gateway} is not a host address of {net}")
    if pool.ip_range:
        within = ipaddress.ip_network(pool.ip_range)
        if within.version != net.version or not within.subnet_of(net):  # type: ignore[arg-type]
            wrong((*base, "ip_range"), f"ip_range {pool.ip_range} is not within {net}")
    for address in pool.reserved:
        if not _is_address(address) or not is_host(address, net):
            wrong((*base, "aux_addresses"), f"{address} is not a host address of {net}")
    for other, owner in taken:
        if other.version == net.version and other.overlaps(net):
            text = f"subnet {net} overlaps {other} of network {owner.full!r} ({owner.place})"
            wrong(pool.path, text)
    taken.append((net, declared))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_host(address: str, net: AnyNetwork) -> bool:
    """Whether a host of `net` may have it: not the network's own, nor IPv4's broadcast."""
    found = ipaddress.ip_address(address)
    if found.version != net.version or found not in net or found == net.network_address:
        return False
    return net.version == 6 or found != net.broadcast_address


# ---------------------------------------------------------------- drivers


def _with_options(
    network: DesiredNetwork, options: Mapping[str, str], model: Network, wrong: _Wrong
) -> DesiredNetwork:
    """With what options of its driver say; those that mean nothing here are problems."""
    known = _OPTIONS[network.driver]
    for key in options:
        if key not in known:
            text, hint = (
                f"driver {network.driver} has no option {key!r} here",
                f"known are {', '.join(known)}",
            )
            wrong(("driver_opts", key), text, hint, at_key=True)
    if MTU in options:
        network = replace(network, mtu=_mtu(options[MTU], model, wrong))
    if network.driver == "macvlan":
        return _macvlan(network, options, wrong)
    icc, masquerade = (_flag(options, key, wrong) for key in (ICC, MASQUERADE))
    return replace(network, icc=icc, masquerade=masquerade)


def _macvlan(network: DesiredNetwork, options: Mapping[str, str], wrong: _Wrong) -> DesiredNetwork:
    parent, mode = options.get(PARENT, ""), options.get(MODE, "bridge")
    if not parent:
        text = "macvlan needs the host's interface that it is on"
        wrong((), text, 'write driver_opts = { parent = "eth0" }')
    if mode not in _MODES:
        text = f"there is no macvlan mode {mode!r}"
        wrong(("driver_opts", MODE), text, f"one of {', '.join(_MODES)}")
    if not network.subnet:
        text = "macvlan needs the subnet of the network that its interface is on"
        wrong((), text, 'such as subnet = "192.168.1.0/24", and the gateway that is there')
    if network.ipv6 and not network.subnet6:
        wrong((), "macvlan with IPv6 needs the IPv6 subnet too", "write both in `subnet`")
    if network.internal:
        wrong(("internal",), "a macvlan network is as open as the one that its interface is on")
    return replace(network, parent=parent, mode="" if mode == "bridge" else mode)


def _flag(options: Mapping[str, str], key: str, wrong: _Wrong) -> bool:
    value = options.get(key, "true").lower()
    if value not in ("true", "false", "1", "0"):
        wrong(("driver_opts", key), f"write true or false, not {value!r}")
    return value not in ("false", "0")


def _mtu(value: str, model: Network, wrong: _Wrong) -> int:
    path = ("driver_opts", MTU)
    if not value.isdecimal() or not 576 <= int(value) <= 65535:
        wrong(path, f"cannot use MTU {value!r}: a number of 576 to 65535")
        return 0
    if model.mtu not in (None, int(value)):
        wrong(path, f"mtu is {model.mtu} already", "leave one of them out")
    return int(value)
