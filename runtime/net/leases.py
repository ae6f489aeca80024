"""Effects: the addresses that containers have on networks, in the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import count

from runtime.faults import Fault
from runtime.net import addresses, links, records
from runtime.net.addresses import AnyAddress, AnyNetwork
from runtime.net.bridges import network_of
from runtime.net.records import Lease, NetworkRecord, Taken
from runtime.wishes import Attachment


def reserve(
    connection: sqlite3.Connection, id: str, container_name: str, networks: Sequence[Attachment]
) -> None:
    """An address of each family on each network. Repeatable.

    Faults network-not-found, address-exhausted, address-taken, request-invalid.
    """
    records.write_endpoint(connection, id, container_name)
    held = {lease.network: lease for lease in records.read_leases(connection, container=id)}
    for wanted, attachment in enumerate(networks):
        if attachment.network not in held:
            lease = _lease(connection, id, container_name, _position(wanted, held.values()), attachment)
            _check_interface(lease, held.values())
            records.write_lease(connection, lease)
            held[attachment.network] = lease


def settle(
    connection: sqlite3.Connection,
    id: str,
    name: str,
    before: Sequence[Attachment],
    after: Sequence[Attachment],
) -> list[Lease]:
    """Lead the leases from one list of networks to another; networks of neither list stay as they are.

    What can stay of a lease stays: its address where another one is not asked for. Returns the leases whose
    links have to go: of networks that it left, and of interfaces that are called otherwise now.
    Faults as `reserve`.
    """
    records.write_endpoint(connection, id, name)
    wanted = {item.network: item for item in after}
    known = {item.network: item for item in before}
    gone: list[Lease] = []
    held = {lease.network: lease for lease in records.read_leases(connection, container=id)}
    changed: list[tuple[Lease, Attachment]] = []
    for network, lease in held.items():
        if network in known and network not in wanted:
            gone.append(lease)
            records.delete_lease(connection, id, network)
        elif network in wanted and _differ(known.get(network), wanted[network]):
            changed.append((lease, wanted[network]))
            records.delete_lease(connection, id, network)
        elif network in wanted:
            records.replace_lease(connection, _told(lease, wanted[network]))
    for lease, attachment in changed:  # after all of them were given up: two may swap
        new = _lease(connection, id, name, lease.position, attachment, lease)
        if new.inside != lease.inside:
            gone.append(lease)
        records.write_lease(connection, new)
    reserve(connection, id, name, after)
    return gone


def _differ(old: Attachment | None, new: Attachment) -> bool:
    """Whether more than names and the priority is another."""
    if old is None:
        return True
    return replace(old, aliases=new.aliases, gw_priority=new.gw_priority) != new


def _told(lease: Lease, attachment: Attachment) -> Lease:
    return replace(lease, aliases=attachment.aliases, priority=attachment.gw_priority)


def _position(wanted: int, held: Iterable[Lease]) -> int:
    """The number of its interface: its place in the list where nobody has it, else the next free one."""
    used = {lease.position for lease in held}
    return wanted if wanted not in used else next(number for number in count() if number not in used)


def _check_interface(lease: Lease, held: Iterable[Lease]) -> None:
    for other in held:
        if other.inside == lease.inside:
            cause = f"{lease.inside} is its interface on network {other.network} already"
            raise Fault("request-invalid", "attach container", lease.name, cause, "choose another name")


def _lease(
    connection: sqlite3.Connection,
    id: str,
    name: str,
    position: int,
    attachment: Attachment,
    old: Lease | None = None,
) -> Lease:
    record = network_of(connection, attachment.network, "attach container to network")
    address = _address(connection, record, name, attachment.ipv4_address, old.address if old else "")
    address6 = ""
    if record.subnet6:
        kept = old.address6 if old else ""
        address6 = _address(connection, record, name, attachment.ipv6_address, kept, ipv6=True)
    elif attachment.ipv6_address:
        cause = f"network {record.name} has no IPv6 for {attachment.ipv6_address}"
        raise Fault("request-invalid", "attach container", name, cause, "write ipv6 = true in the network")
    if attachment.mac_address and (
        owner := records.owner_of(connection, record.name, attachment.mac_address)
    ):
        raise _taken(attachment.mac_address, record, name, f"container {owner}")
    shard = 0
    if record.is_bridge:
        shard = old.shard if old else records.free_shard(connection, record.name, links.MEMBERS)
    if shard >= links.MOST_SHARDS:
        cause = f"network {record.name} has {links.MEMBERS * links.MOST_SHARDS} members, which is the most"
        raise Fault("address-exhausted", "attach container", name, cause, "use another network")
    return Lease(
        network=record.name,
        address=address,
        container=id,
        name=name,
        position=position,
        mac=attachment.mac_address or addresses.mac_of(address),
        aliases=attachment.aliases,
        active=False,
        address6=address6,
        priority=attachment.gw_priority,
        interface=attachment.interface_name,
        link_local=attachment.link_local_ips,
        shard=shard,
    )


def _address(
    connection: sqlite3.Connection,
    record: NetworkRecord,
    name: str,
    asked: str,
    kept: str,
    *,
    ipv6: bool = False,
) -> str:
    """The one asked for, else the one that it has, else the next free one."""
    subnet: AnyNetwork = ip_network(record.subnet6 if ipv6 else record.subnet)
    gateway = ip_address(record.gateway6 if ipv6 else record.gateway)
    taken = Taken(connection, record, ipv6=ipv6)
    if asked:
        return str(_static(connection, asked, subnet, gateway, record, name))
    if kept:
        return kept
    last, within = (
        (record.last6, record.options.ip_range6) if ipv6 else (record.last, record.options.ip_range)
    )
    found = addresses.next_address(
        subnet,
        gateway,
        taken,
        ip_address(last) if last else None,
        ip_network(within) if within else None,
    )
    if found is None:
        cause = f"network {record.name} ({within or subnet}) has no free address"
        raise Fault("address-exhausted", "attach container", name, cause, "use a larger subnet")
    records.set_last(connection, record.name, str(found))
    return str(found)


def _static(
    connection: sqlite3.Connection,
    asked: str,
    subnet: AnyNetwork,
    gateway: AnyAddress,
    record: NetworkRecord,
    name: str,
) -> AnyAddress:
    """The address asked for. Faults request-invalid, address-taken."""
    try:
        address = ip_address(asked)
    except ValueError as error:
        raise Fault("request-invalid", "attach container", name, str(error).lower()) from None
    try:
        addresses.parse_host(asked, subnet)
    except ValueError:
        cause = f"{address} is not a host address of network {record.name} ({subnet})"
        raise Fault("request-invalid", "attach container", name, cause) from None
    if address == gateway:
        raise _taken(str(address), record, name, "the gateway")
    if owner := records.owner_of(connection, record.name, str(address)):
        raise _taken(str(address), record, name, f"container {owner}")
    return address


def _taken(what: str, record: NetworkRecord, name: str, owner: str) -> Fault:
    cause = f"{what} on network {record.name} belongs to {owner}"
    return Fault("address-taken", "attach container", name, cause)
