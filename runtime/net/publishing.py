"""Effects: the published ports of one state directory: their rows, and the firewall that follows them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from runtime.database import Database
from runtime.faults import Fault, from_oserror
from runtime.interface import Defect
from runtime.net import addresses, firewall, links, ports, records
from runtime.net.records import NetworkRecord, by_container, published_on
from specs.values import PortBinding

IP_FORWARD = "ipv4/ip_forward"
IP6_FORWARD = "ipv6/conf/all/forwarding"


class Publishing:
    """A port is wanted while its container is active (up). Thread-safe."""

    def __init__(self, database: Database, root: str, state: Path) -> None:
        """`state` is the file in which the firewall keeps what it wrote last."""
        self._database = database
        self._table = addresses.table_name(root)
        self._firewall = firewall.Firewall(self._table, state, self._wanted)

    def set_ports(
        self, connection: sqlite3.Connection, id: str, container_name: str, ports: Sequence[PortBinding]
    ) -> None:
        """Exactly these ports from the next `publish` on. Faults request-invalid, port-taken."""
        for binding in ports:
            if ":" in binding.host_ip and binding.host_ip != "::":
                cause = f"port {binding} has an IPv6 address, which is not supported yet"
                raise Fault("request-invalid", "publish ports of", container_name, cause)
        before = records.read_ports(connection, id)
        records.write_ports(connection, id, ports)
        if records.is_active(connection, id):
            self._check(connection, id, container_name, [item for item in ports if item not in before])

    def check_ports(self, id: str) -> None:
        """Fault port-taken when a container that is up, or a program of the host, has one of its ports;
        request-invalid when one is for an address that the host does not have.
        """
        connection = self._database.read()
        self._check(connection, id, _name(connection, id), records.read_ports(connection, id))

    def _check(
        self, connection: sqlite3.Connection, id: str, name: str, bindings: Sequence[PortBinding]
    ) -> None:
        self._check_rows(connection, id, name, bindings)
        if not bindings:
            return
        for binding in bindings:
            if binding.host_ip not in ports.ANY and not ports.is_local(binding.host_ip):
                cause = f"port {binding} is for {binding.host_ip}, which is no address of this host"
                raise Fault("request-invalid", "publish ports of", name, cause, "leave the address out")
        listening = ports.listeners()
        for binding in bindings:
            listener = ports.conflict(binding, listening)
            if listener is not None:
                who = ports.owner(listener.inode) or "a program of the host"
                cause = f"port {binding.host_port}/{binding.protocol} is used by {who}"
                hint = "stop it or publish on another port"
                raise Fault("port-taken", "publish ports of", name, cause, hint)
        for table, theirs in firewall.published_elsewhere(self._table):
            if any(ports.overlap(binding, theirs) for binding in bindings):
                cause = f"port {theirs.host_port}/{theirs.protocol} is published by another state directory"
                hint = f"its nftables table is {table}"
                raise Fault("port-taken", "publish ports of", name, cause, hint)

    def _check_rows(
        self, connection: sqlite3.Connection, id: str, name: str, bindings: Iterable[PortBinding]
    ) -> None:
        for binding in bindings:
            for other, theirs in records.same_port_rows(connection, id, binding):
                if ports.overlap(binding, theirs):
                    cause = f"port {binding.host_port}/{binding.protocol} is used by container {other}"
                    raise Fault("port-taken", "publish ports of", name, cause)

    def activate(self, id: str) -> None:
        """The container is up: its ports are wanted from now on, `publish` brings them. Fault port-taken.

        A power cut takes the container with it, so what is said of it here need not outlive one."""
        with self._database.write(durable=False) as connection:
            if records.is_active(connection, id):
                return
            bindings = records.read_ports(connection, id)
            self._check_rows(connection, id, _name(connection, id), bindings)
            records.set_active(connection, id, True)

    def deactivate(self, id: str) -> None:
        """The container is down: its ports are not wanted any more."""
        if not records.is_active(self._database.read(), id):
            return
        with self._database.write(durable=False) as connection:
            records.set_active(connection, id, False)

    def publish(self, *, force: bool = False) -> None:
        """Make the table and the settings of forwarding as the records want them.

        Callers at one time share one transaction. `force` reads everything back first, and raises where
        a table of somebody else drops our packets. Fault firewall-failed.
        """
        self._firewall.publish(force=force)
        networks = records.read_networks(self._database.read())
        if not networks:
            return
        try:
            links.write_sysctl(IP_FORWARD, "1")
            if any(record.subnet6 for record in networks.values()):
                links.forward_ipv6()
            if force:
                for record in networks.values():
                    name = f"ipv4/conf/{record.bridge}/route_localnet"
                    links.write_sysctl(name, "1", optional=True)
        except OSError as error:
            raise from_oserror(error, "set forwarding of", "this host") from error
        if force:
            for defect in self._firewall.check():
                if defect.kind == "forwarding":
                    raise Fault("firewall-failed", "repair", "firewall", defect.text)

    def _wanted(self) -> firewall.Contents | None:
        connection = self._database.read()
        networks = records.read_networks(connection)
        if not networks:
            return None
        bridged = [item for item in networks.values() if item.is_bridge]
        zones = [firewall.Zone(item.bridge, item.subnet, item.internal) for item in bridged]
        published = records.read_active_ports(connection)
        target: dict[str, str] = {}
        if published:
            for container, leases in by_container(records.read_leases(connection)).items():
                lease = published_on(leases, networks)
                if lease is not None:
                    target[container] = lease.address
        publications = [
            firewall.Publication(
                "" if port.host_ip in ports.ANY else port.host_ip,
                port.host_port,
                port.protocol,
                target[container],
                port.container_port,
            )
            for container, _, port in published
            if container in target
        ]
        return firewall.contents(zones, publications)

    def defects(self, networks: Iterable[NetworkRecord], forward: str) -> tuple[Defect, ...]:
        """How the firewall and the settings of forwarding differ from what the records want. `forward` is
        net.ipv4.ip_forward as it was read."""
        wall = self._firewall.check()
        networks = tuple(networks)
        if forward != "1" and networks:
            wall += (Defect("forwarding", "net.ipv4.ip_forward is 0: containers cannot reach the network"),)
        if any(record.subnet6 for record in networks) and links.read_sysctl(IP6_FORWARD) != "1":
            text = "net.ipv6.conf.all.forwarding is 0: containers cannot reach the network by IPv6"
            wall += (Defect("forwarding", text),)
        return wall


def _name(connection: sqlite3.Connection, id: str) -> str:
    row = connection.execute("SELECT name FROM endpoints WHERE container = ?", (id,)).fetchone()
    return id if row is None else str(row["name"])
