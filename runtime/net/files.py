"""Effects: what containers are told of the network: /etc/hosts, /etc/hostname and /etc/resolv.conf, which are
bind-mounted into them, and what the name server is told of containers.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from runtime.database import Database
from runtime.faults import Fault, from_oserror
from runtime.net import addresses, names, records, resolvconf
from runtime.net.dns import zone
from runtime.net.dns.service import NameService
from runtime.net.hearing import Hearing
from runtime.net.records import Lease, NetworkRecord, by_container, way_out
from runtime.observations import Defect
from runtime.paths import Paths
from runtime.wishes import ContainerRequest

#: what of /etc is a container's own
ETC = ("hosts", "hostname", "resolv.conf")


class Files:
    """The files of the containers of one state directory. Thread-safe. Without `service` there is no name
    server, and containers ask the host's."""

    def __init__(self, paths: Paths, database: Database, service: NameService | None) -> None:
        self._containers = f"{paths.root}/containers"
        self._database = database
        self._service = service
        self._telling = threading.Lock()
        self._hearing = Hearing(paths.netns, addresses.bridge_prefix(str(paths.root.resolve())))

    # ------------------------------------------------------------ write

    @staticmethod
    def lay(directory: Path) -> None:
        """The files that `write` fills, with what is in them by now. OSError."""
        for name in ETC:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(f"{directory}/{name}", flags, 0o644))

    def write(self, id: str, request: ContainerRequest, directory: Path) -> None:
        """hosts, hostname and resolv.conf of the container, in place where they exist; its names."""
        connection = self._database.read()
        leases = records.read_leases(connection, container=id)
        networks = records.read_networks(connection)
        hostname = hostname_of(request)
        via = self._serve(id, request, leases, networks) if request.network_mode == "bridge" else ""
        if request.network_mode == "host" and self._service is not None:
            self._service.member(self._member(id, request, (), ""))
        try:
            if request.network_mode == "host":
                hosts = names.host_hosts(names.read_small(Path("/etc/hosts")) or "", request.extra_hosts)
                base = resolvconf.raw_host_text()
            else:
                first = way_out(leases, networks) or next(iter(leases), None)
                own = [first.address, first.address6] if first is not None else []
                near = _near(leases, networks)
                gateways = [near.gateway, near.gateway6] if near is not None else []
                hosts = names.hosts_text(hostname, request.domainname, own, request.extra_hosts, gateways)
                if not resolvconf.asked(via, request.dns):
                    hosts += names.peers_of(names.read_small(directory / "hosts") or "")
                base = resolvconf.host_text()
            resolv = resolvconf.resolv_text(
                base,
                request.dns,
                request.dns_search,
                request.dns_opt,
                loopback=request.network_mode == "host",
                via=via,
            )
            names.write_in_place(directory / "hosts", hosts)
            names.write_in_place(directory / "hostname", hostname + "\n")
            names.write_in_place(directory / "resolv.conf", resolv)
        except OSError as error:
            raise from_oserror(error, "write network files of", request.name) from error

    def _serve(
        self,
        id: str,
        request: ContainerRequest,
        leases: Sequence[Lease],
        networks: Mapping[str, NetworkRecord],
    ) -> str:
        """Make the container known to a name server that runs. Returns where the container asks it; empty
        when it cannot be asked, which is a defect of the network, and no reason not to run."""
        if self._service is None or not leases:
            return ""
        self.tell_networks()
        gateway = _asked(leases, networks)
        self._service.member(self._member(id, request, leases, gateway))
        served = [networks[lease.network] for lease in leases]
        try:
            failed = self._service.ensure([record.gateway for record in served if record.is_bridge])
        except Fault as fault:
            if fault.code != "names-failed":
                raise
            return ""
        return "" if gateway in failed else gateway

    # ------------------------------------------------------------ tell

    def tell_networks(self) -> None:
        """The name server serves the networks that there are now."""
        if self._service is None:
            return
        with self._telling:
            found = records.read_networks(self._database.read()).values()
            self._service.networks(
                zone.Network(item.name, _gateways(item), _subnets(item), item.internal, item.bridge)
                for item in found
            )

    def tell(self, id: str, request: ContainerRequest) -> None:
        """The names of a container that is known already, after they changed."""
        if self._service is not None and self._service.is_told(id):
            connection = self._database.read()
            leases = records.read_leases(connection, container=id)
            gateway = _asked(leases, records.read_networks(connection))
            self._service.member(self._member(id, request, leases, gateway))

    def leave(self, id: str) -> None:
        """The container is about to be stopped: new clients are better off with others of its names."""
        if self._service is not None:
            self._service.leave(id)

    def _member(
        self, id: str, request: ContainerRequest, leases: Sequence[Lease], gateway: str
    ) -> zone.Member:
        endpoints = tuple(
            zone.Endpoint(lease.network, tuple(filter(None, (lease.address, lease.address6))), lease.aliases)
            for lease in leases
        )
        own = zone.Files(
            f"{self._containers}/{id}",
            gateway,
            request.dns_search,
            request.dns_opt,
            request.network_mode == "host",
        )
        return zone.Member(id, request.name, endpoints, request.hostname, request.dns, own)

    def renew_server(self) -> None:
        """A name server of an older release, where one runs, is followed by this one's; or stays, where that
        fails."""
        try:
            if self._service is not None:
                self._service.renew()
        except Fault as fault:
            if fault.code != "names-failed":
                raise

    def ensure_served(self, gateway: str) -> None:
        """A name server at the gateway, where it can be had, that hears containers where that is ours to do.
        Faults names-failed, firewall-failed."""
        if self._service is not None:
            self._service.ensure([gateway])
            self._hearing.let_in(gateway)

    # ------------------------------------------------------------ look

    def server_pid(self) -> int:
        """0: there is no name server."""
        state = self._service.state() if self._service is not None else None
        return state.pid if state is not None else 0

    def network_defects(self, connection: sqlite3.Connection, *, ask: bool) -> dict[str, tuple[Defect, ...]]:
        """By network with members that are up: what is wrong with its name server. Without `ask` nothing is
        asked that might have to wait for an answer."""
        if self._service is None:
            return {}
        networks, held = records.snapshot(connection)
        served = {lease.network: lease for lease in held if lease.active}
        state = self._service.state() if served else None
        found = {}
        for name, lease in served.items():
            record = networks[name]
            if record.is_bridge:
                wrong = self._service.defects(_gateways(record), state)
                text = "" if wrong else self._hearing.check(record.gateway, lease.container, ask=ask)
                found[name] = wrong + ((Defect("names", text),) if text else ())
        return found

    def defects(self) -> dict[str, tuple[Defect, ...]]:
        """How the files of the containers that are up differ from what they should say."""
        connection = self._database.read()
        wrongs: dict[str, tuple[Defect, ...]] = {}
        networks, held = records.snapshot(connection)
        leases = by_container(held)
        state = self._service.state() if self._service is not None else None
        failed = state.failed if state is not None else {}
        bases = resolvconf.host_text(), resolvconf.raw_host_text()
        for id, is_up in records.read_endpoints(connection).items():
            if not is_up:
                continue
            via = _asked(leases.get(id, ()), networks) if self._service is not None else ""
            found = self._file_defects(id, bases, "" if via in failed else via)
            if self._service is not None and leases.get(id) and not self._service.is_told(id):
                found += (Defect("names", "the name server does not know of it"),)
            if found:
                wrongs[id] = found
        return wrongs

    def _file_defects(self, id: str, bases: Iterable[str], via: str) -> tuple[Defect, ...]:
        """`bases` are what containers with networks of their own follow, and those on the host's: which of
        them it is the records do not say."""
        resolv = names.read_small(f"{self._containers}/{id}/resolv.conf")
        if resolv is None or not all(resolvconf.is_stale(resolv, base, via) for base in bases):
            return ()
        told = self._service.told(id) if self._service is not None else None
        own = resolvconf.asked(via, told.dns) if told is not None else via
        if own != via and not all(resolvconf.is_stale(resolv, base, own) for base in bases):
            return ()
        return (Defect("resolv", "what its resolv.conf follows has changed since it was written"),)


def _near(leases: Sequence[Lease], networks: Mapping[str, NetworkRecord]) -> NetworkRecord | None:
    """The network at whose gateway the container finds this host: the one by which it reaches the world, else
    the first. The gateway of a macvlan network is another machine."""
    outward = way_out(leases, networks)
    ordered = [networks[lease.network] for lease in ([outward] if outward else []) + list(leases)]
    return next((record for record in ordered if record.is_bridge), None)


def _asked(leases: Sequence[Lease], networks: Mapping[str, NetworkRecord]) -> str:
    """The gateway that a container asks for names; empty: it has none that answers."""
    near = _near(leases, networks)
    return (near.gateway or near.gateway6) if near is not None else ""


def _gateways(record: NetworkRecord) -> tuple[str, ...]:
    """Where names are answered on the network."""
    return tuple(filter(None, (record.gateway, record.gateway6))) if record.is_bridge else ()


def _subnets(record: NetworkRecord) -> tuple[IPv4Network | IPv6Network, ...]:
    return (record.net,) if record.net6 is None else (record.net, record.net6)


def hostname_of(request: ContainerRequest) -> str:
    """As asked, the host's own where the container shares its network, else the last part of the name."""
    if request.hostname:
        return request.hostname
    if request.network_mode == "host" or request.uts_mode == "host":
        return os.uname().nodename
    return request.name.rpartition("/")[2][:63]
