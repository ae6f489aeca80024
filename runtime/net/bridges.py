"""Effects: the bridge networks of one state directory: their rows, subnets and bridges. Thread-safe."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TypeVar

from runtime.database import Database
from runtime.faults import Fault, from_oserror
from runtime.net import addresses, links, records
from runtime.net.addresses import AnyNetwork, Net
from runtime.net.defects import parent_defects
from runtime.net.records import NetworkRecord
from runtime.wishes import NetworkRequest

T = TypeVar("T")

MACVLAN_MODES = ("", "bridge", "private", "vepa", "passthru")


class Bridges:
    """Subnets are cut from `pool` where none is asked for. Others see by its bridge only that a subnet is
    taken: it is made before the row is written, and a bridge that a crash leaves without one is swept."""

    def __init__(
        self,
        database: Database,
        root: str,
        pool: str,
        pool6: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`pool6` empty: a /48 of unique local addresses that follows from the machine and `root`."""
        self._database = database
        self._root = root
        self._pool = IPv4Network(pool)
        self._pool6 = IPv6Network(pool6) if pool6 else addresses.ula_pool(f"{_machine_id()} {root}")
        self._clock = clock
        self._creating = threading.Lock()

    def create(self, request: NetworkRequest) -> None:
        """Record and bridge. Faults subnet-overlap, address-exhausted, network-in-use, request-invalid."""
        with self._creating, links.alone(), self._database.write():
            record = self._recorded(request)
            self._ensure(record, "create network")

    def _recorded(self, request: NetworkRequest) -> NetworkRecord:
        """The row for the request: the one that is there where nothing of weight differs, else a new one."""
        with self._database.write() as connection:
            old = records.read_network(connection, request.name)
            new = self._planned(connection, request, old)
            if old is not None and _shape(old) != _shape(new):
                members = [item.name for item in records.read_leases(connection, networks=[request.name])]
                if members:
                    raise _in_use("change network", request.name, members)
            if old is not None and _shape(old) == _shape(new):
                new = replace(new, last=old.last, last6=old.last6)
            if new != old:
                records.write_network(connection, new)
        return new

    def _planned(
        self, connection: sqlite3.Connection, request: NetworkRequest, old: NetworkRecord | None
    ) -> NetworkRecord:
        others = [item for name, item in records.read_networks(connection).items() if name != request.name]
        bridge = addresses.bridge_name(self._root, request.name)
        below = request.options.parent or bridge
        taken = [item.net for item in others] + _elsewhere(links.routes(), below)
        asked = _valid(addresses.parse_subnet, request, request.subnet) if request.subnet else None
        subnet = self._chosen(request, asked, old.net if old else None, self._pool, taken)
        gateway = _valid(lambda text: addresses.parse_gateway(text, subnet), request, request.gateway)
        subnet6 = self._planned6(request, old, others, below)
        gateway6 = ""
        if subnet6 is not None:
            gateway6 = str(
                _valid(lambda text: addresses.parse_gateway(text, subnet6), request, request.gateway6)
            )
        _check_options(request, subnet, subnet6)
        return NetworkRecord(
            name=request.name,
            source=request.source,
            fingerprint=request.fingerprint,
            bridge=bridge,
            subnet=str(subnet),
            gateway=str(gateway),
            internal=request.internal,
            mtu=request.mtu or (old.mtu if old is not None else _default_mtu(request.options.parent)),
            labels=records.encode_labels(request.labels),
            subnet6=str(subnet6 or ""),
            gateway6=gateway6,
            options=request.options,
            created=old.created if old is not None else self._clock(),
        )

    def _planned6(
        self, request: NetworkRequest, old: NetworkRecord | None, others: list[NetworkRecord], below: str
    ) -> IPv6Network | None:
        if not request.ipv6 and not request.subnet6:
            return None
        if not links.read_sysctl("ipv6/conf/all/forwarding"):
            cause, hint = "this kernel has no IPv6 (module ipv6)", "leave out ipv6, or boot with IPv6"
            raise Fault("kernel-unsupported", "create network", request.name, cause, hint)
        taken = [item.net6 for item in others if item.net6 is not None]
        taken += _elsewhere(links.routes6(), below)
        asked = _valid(addresses.parse_subnet6, request, request.subnet6) if request.subnet6 else None
        return self._chosen(request, asked, old.net6 if old else None, self._pool6, taken)

    def _chosen(
        self, request: NetworkRequest, asked: Net | None, held: Net | None, pool: Net, taken: list[Net]
    ) -> Net:
        """What is asked for, else what it has, else the next one of the pool."""
        subnet = asked or held
        if subnet is None:
            subnet = addresses.free_subnet(pool, taken)
            if subnet is None:
                cause, hint = f"the pool {pool} has no free subnet", "widen the node's pool"
                raise Fault("address-exhausted", "create network", request.name, cause, hint)
        elif subnet != held:
            other = addresses.overlapping(subnet, taken)
            if other is not None:
                cause, hint = f"{subnet} overlaps {other}", "choose another subnet, or leave it out"
                raise Fault("subnet-overlap", "create network", request.name, cause, hint)
        return subnet

    def repair(self, name: str) -> NetworkRecord:
        """The bridge, its addresses and settings, and the ends of its members' pairs on it.

        Fault kernel-error where a macvlan network has lost its parent, which is not ours to bring back.
        """
        record = network_of(self._database.read(), name, "repair network")
        self.ensure(record, "repair network")
        if not record.is_bridge:
            _check_parent(record)
            return record
        hosts: dict[int, dict[str, str]] = {}
        for item in records.read_leases(self._database.read(), networks=[name]):
            host = addresses.link_name(self._root, item.container, name)
            hosts.setdefault(item.shard, {})[host] = item.mac
        hairpin, isolated = links.hairpin_needed(), not record.options.icc
        try:
            for shard, ends in hosts.items():
                bridge = addresses.shard_name(self._root, name, shard)
                mac = record.gateway_mac(shard)
                links.enslave(bridge, ends, bridge_mac=mac, hairpin=hairpin, isolated=isolated)
        except OSError as error:
            raise from_oserror(error, "repair network", name) from error
        return record

    def remove(self, name: str) -> None:
        """Repeatable. Fault network-in-use while containers have leases on it."""
        with self._creating:
            with self._database.write() as connection:
                leases = records.read_leases(connection, networks=[name])
                if leases:
                    raise _in_use("remove network", name, [item.name for item in leases])
                try:  # the bridge before its record, so that a crash leaves nothing that no record knows
                    links.delete_links([addresses.bridge_name(self._root, name)])
                    self._drop_shards(name)
                except OSError as error:
                    raise from_oserror(error, "remove network", name) from error
                records.delete_network(connection, name)

    def ensure(self, record: NetworkRecord, operation: str) -> None:
        """The bridge as its row wants it. Faults subnet-overlap, kernel-unsupported."""
        with self._creating, links.alone():
            self._ensure(record, operation)

    def _ensure(self, record: NetworkRecord, operation: str) -> None:
        """The caller is alone (links.alone). Fault subnet-overlap: a bridge that is gone may have lost its
        subnet to another state directory or to the host, which saw that it was free.
        """
        if not record.is_bridge:
            return
        if not links.index_of(record.bridge):
            self._check_free(record, operation)
        given = frozenset(filter(None, (record.gateway_interface, record.gateway6_interface)))
        try:
            links.ensure_bridge(links.Bridge(record.bridge, given, record.bridge_mac, record.mtu))
            for shard in records.read_shards(self._database.read()).get(record.name, ()):
                self._ensure_shard(record, shard)
        except OSError as error:
            raise link_fault(error, operation, record.name) from error

    def _check_free(self, record: NetworkRecord, operation: str) -> None:
        other: AnyNetwork | None
        other = addresses.overlapping(record.net, _elsewhere(links.routes(), record.bridge))
        if other is None and record.net6 is not None:
            other = addresses.overlapping(record.net6, _elsewhere(links.routes6(), record.bridge))
        if other is not None:
            cause = f"its subnet overlaps {other}, which another interface of this host has now"
            raise Fault("subnet-overlap", operation, record.name, cause, "free it, or remove the network")

    def _ensure_shard(self, record: NetworkRecord, shard: int) -> None:
        """A further bridge, tied to the network's own: one of them takes 1,023 ports (BR_MAX_PORTS)."""
        name = addresses.shard_name(self._root, record.name, shard)
        links.ensure_bridge(links.Bridge(name, frozenset(), addresses.shard_mac(name), record.mtu))
        ends = addresses.uplink_names(self._root, record.name, shard)
        isolated = not record.options.icc
        links.ensure_uplink(record.bridge, name, ends, record.mtu, isolated=isolated)

    def _drop_shards(self, network: str) -> None:
        """Bridges for more members, of which there are none any more."""
        for shard in range(1, links.MOST_SHARDS):
            name = addresses.shard_name(self._root, network, shard)
            if not links.index_of(name):
                return
            links.delete_links([*addresses.uplink_names(self._root, network, shard), name])


def network_of(connection: sqlite3.Connection, name: str, operation: str) -> NetworkRecord:
    """Its row. Fault network-not-found."""
    record = records.read_network(connection, name)
    if record is None:
        raise Fault("network-not-found", operation, name, "there is no network of this name")
    return record


# ---------------------------------------------------------------- decisions


def _shape(record: NetworkRecord) -> tuple[object, ...]:
    """What cannot change under members."""
    of_ipv6 = (record.subnet6, record.gateway6)
    return (record.subnet, record.gateway, record.internal, record.mtu, of_ipv6, record.options)


def _elsewhere(routes: list[tuple[Net, int]], own: str) -> list[Net]:
    """Destinations that other interfaces than `own` have."""
    index = links.index_of(own)
    return [network for network, where in routes if not index or where != index]


def _check_options(request: NetworkRequest, subnet: IPv4Network, subnet6: IPv6Network | None) -> None:
    """Faults request-invalid."""
    options = request.options
    _valid(lambda text: addresses.parse_range(text, subnet), request, options.ip_range)
    if options.ip_range6:
        if subnet6 is None:
            raise _invalid(request, f"ip_range {options.ip_range6} needs IPv6")
        within = subnet6
        _valid(lambda text: addresses.parse_range(text, within), request, options.ip_range6)
    for address in options.reserved:
        net: AnyNetwork = subnet6 if ":" in address and subnet6 is not None else subnet
        _valid(partial(addresses.parse_host, subnet=net), request, address)
    if options.driver == "bridge":
        return
    if options.driver != "macvlan" or options.mode not in MACVLAN_MODES:
        raise _invalid(request, f"there is no driver {options.driver} {options.mode}".rstrip())
    if not options.parent or not links.index_of(options.parent):
        raise _invalid(request, f"there is no interface {options.parent!r} for macvlan on this host")
    if not request.subnet:
        raise _invalid(request, "a macvlan network needs the subnet of the network that its parent is on")


def _check_parent(record: NetworkRecord) -> None:
    wrong = parent_defects(record, links.links())
    if wrong:
        hint = f"bring it back (ip link set {record.options.parent} up), or change the network's parent"
        raise Fault("kernel-error", "repair network", record.name, wrong[0].text, hint)


def _invalid(request: NetworkRequest, cause: str) -> Fault:
    return Fault("request-invalid", "create network", request.name, cause)


def _default_mtu(parent: str) -> int:
    """That of the interface below, else of the way out."""
    link = links.links().get(parent) if parent else None
    return link.mtu if link is not None else links.default_mtu()


def _machine_id() -> str:
    """machine-id(5); a host without one has another pool of IPv6 than it would have with it."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


def _valid(parse: Callable[[str], T], request: NetworkRequest, text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise Fault("request-invalid", "create network", request.name, str(error)) from None


def _in_use(operation: str, network: str, members: Sequence[str]) -> Fault:
    shown = ", ".join(sorted(members)[:5])
    return Fault("network-in-use", operation, network, f"used by {shown}", "remove its containers first")


def link_fault(error: OSError, operation: str, subject: str) -> Fault:
    """A kernel without bridges or veth pairs gets a hint."""
    if error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP):
        hint = "load the modules bridge and veth, or install the full kernel package"
        cause = "the kernel has no bridges or veth pairs"
        return Fault("kernel-unsupported", operation, subject, cause, hint)
    return from_oserror(error, operation, subject)
