"""Effects: the bridge networks of one state directory: their rows, subnets and bridges. Thread-safe."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from typing import TypeVar

from runtime.database import Database
from runtime.faults import Fault, from_oserror
from runtime.interface import NetworkRequest
from runtime.net import addresses, links, records
from runtime.net.records import NetworkRecord

T = TypeVar("T")


class Bridges:
    """Subnets are cut from `pool` where none is asked for. Others see by its bridge only that a subnet is
    taken: it is made before the row is written, and a bridge that a crash leaves without one is swept."""

    def __init__(self, database: Database, root: str, pool: str) -> None:
        self._database = database
        self._root = root
        self._pool = IPv4Network(pool)
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
                new = replace(new, last=old.last)
            if new != old:
                records.write_network(connection, new)
        return new

    def _planned(
        self, connection: sqlite3.Connection, request: NetworkRequest, old: NetworkRecord | None
    ) -> NetworkRecord:
        bridge = addresses.bridge_name(self._root, request.name)
        others = [
            item.net for name, item in records.read_networks(connection).items() if name != request.name
        ]
        if request.subnet:
            subnet = _valid(addresses.parse_subnet, request, request.subnet)
        elif old is not None:
            subnet = old.net
        else:
            free = addresses.free_subnet(self._pool, others + self._routes(bridge))
            if free is None:
                cause, hint = f"the pool {self._pool} has no free subnet", "widen the node's pool"
                raise Fault("address-exhausted", "create network", request.name, cause, hint)
            subnet = free
        if old is None or subnet != old.net:
            other = addresses.overlapping(subnet, others + self._routes(bridge))
            if other is not None:
                cause, hint = f"{subnet} overlaps {other}", "choose another subnet, or leave it out"
                raise Fault("subnet-overlap", "create network", request.name, cause, hint)
        gateway = _valid(lambda text: addresses.parse_gateway(text, subnet), request, request.gateway)
        return NetworkRecord(
            name=request.name,
            source=request.source,
            fingerprint=request.fingerprint,
            bridge=bridge,
            subnet=str(subnet),
            gateway=str(gateway),
            internal=request.internal,
            mtu=request.mtu or (old.mtu if old is not None else links.default_mtu()),
            labels=records.encode_labels(request.labels),
        )

    def _routes(self, bridge: str) -> list[IPv4Network]:
        own = links.index_of(bridge)
        return [network for network, index in links.routes() if not own or index != own]

    def repair(self, name: str) -> NetworkRecord:
        """The bridge, its address and settings, and the ends of its members' pairs on it."""
        record = network_of(self._database.read(), name, "repair network")
        self.ensure(record, "repair network")
        leases = records.read_leases(self._database.read(), networks=[name])
        hosts = [addresses.link_name(self._root, item.container, name) for item in leases]
        try:
            links.enslave(record.bridge, hosts, hairpin=links.hairpin_needed())
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
        if not links.index_of(record.bridge):
            other = addresses.overlapping(record.net, self._routes(record.bridge))
            if other is not None:
                cause = f"{record.subnet} overlaps {other}, which another interface of this host has now"
                raise Fault("subnet-overlap", operation, record.name, cause, "free it, or remove the network")
        mac = addresses.mac_of(record.gateway)
        bridge = links.Bridge(record.bridge, record.gateway_interface, mac, record.mtu)
        try:
            links.ensure_bridge(bridge)
        except OSError as error:
            raise link_fault(error, operation, record.name) from error


def network_of(connection: sqlite3.Connection, name: str, operation: str) -> NetworkRecord:
    """Its row. Fault network-not-found."""
    record = records.read_network(connection, name)
    if record is None:
        raise Fault("network-not-found", operation, name, "there is no network of this name")
    return record


# ---------------------------------------------------------------- decisions


def _shape(record: NetworkRecord) -> tuple[object, ...]:
    """What cannot change under members."""
    return (record.subnet, record.gateway, record.internal, record.mtu)


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
