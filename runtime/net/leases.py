"""Effects: the addresses that containers have on networks, in the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from ipaddress import AddressValueError, IPv4Address

from runtime.faults import Fault
from runtime.interface import Attachment
from runtime.net import addresses, records
from runtime.net.bridges import network_of
from runtime.net.records import Lease, NetworkRecord


def reserve(
    connection: sqlite3.Connection, id: str, container_name: str, networks: Sequence[Attachment]
) -> None:
    """An address on each network. Repeatable.

    Faults network-not-found, address-exhausted, address-taken, request-invalid.
    """
    records.write_endpoint(connection, id, container_name)
    held = {lease.network: lease for lease in records.read_leases(connection, container=id)}
    for position, attachment in enumerate(networks):
        if attachment.network not in held:
            _lease(connection, id, container_name, position, attachment)


def _lease(
    connection: sqlite3.Connection,
    id: str,
    name: str,
    position: int,
    attachment: Attachment,
) -> None:
    record = network_of(connection, attachment.network, "attach container to network")
    taken = records.taken_addresses(connection, record.name)
    if attachment.ipv4_address:
        address = _static(attachment, record, name, taken)
    else:
        last = IPv4Address(record.last) if record.last else None
        found = addresses.next_address(record.net, IPv4Address(record.gateway), taken, last)
        if found is None:
            cause = f"network {record.name} ({record.subnet}) has no free address"
            raise Fault("address-exhausted", "attach container", name, cause, "use a larger subnet")
        address = found
        records.set_last(connection, record.name, str(address))
    mac = attachment.mac_address or addresses.mac_of(address)
    lease = Lease(record.name, str(address), id, name, position, mac, attachment.aliases, False)
    records.write_lease(connection, lease)


# ---------------------------------------------------------------- decisions


def _static(
    attachment: Attachment, record: NetworkRecord, name: str, taken: Collection[IPv4Address]
) -> IPv4Address:
    """The address asked for. Faults request-invalid, address-taken."""
    try:
        address = IPv4Address(attachment.ipv4_address)
    except AddressValueError as error:
        raise Fault("request-invalid", "attach container", name, str(error).lower()) from None
    net = record.net
    if address not in net or address in (net.network_address, net.broadcast_address):
        cause = f"{address} is not a host address of network {record.name} ({net})"
        raise Fault("request-invalid", "attach container", name, cause)
    if address in taken or str(address) == record.gateway:
        who = "the gateway" if str(address) == record.gateway else "another container"
        cause = f"{address} on network {record.name} belongs to {who}"
        raise Fault("address-taken", "attach container", name, cause)
    return address
