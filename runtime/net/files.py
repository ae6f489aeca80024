"""Effects: /etc/hosts, /etc/hostname and /etc/resolv.conf of containers, which are bind-mounted into them."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from runtime.database import Database
from runtime.faults import from_oserror
from runtime.interface import ContainerRequest, Defect
from runtime.net import names, records, resolvconf
from runtime.net.records import by_container, way_out
from runtime.paths import Paths


class Files:
    """The files of the containers of one state directory. Thread-safe."""

    def __init__(self, paths: Paths, database: Database) -> None:
        self._containers = f"{paths.root}/containers"
        self._database = database
        self._hosts = threading.Lock()
        self._dirty: set[str] = set()
        self._dirty_lock = threading.Lock()

    def write(self, id: str, request: ContainerRequest, directory: Path) -> None:
        """hosts, hostname and resolv.conf of the container, in place where they exist."""
        connection = self._database.read()
        leases = records.read_leases(connection, container=id)
        networks = records.read_networks(connection)
        hostname = _hostname(request)
        try:
            if request.network_mode == "host":
                hosts = names.host_hosts(names.read_small(Path("/etc/hosts")) or "", request.extra_hosts)
                resolv = resolvconf.resolv_text(
                    resolvconf.raw_host_text(),
                    request.dns,
                    request.dns_search,
                    request.dns_opt,
                    loopback=True,
                )
            else:
                outward = way_out(leases, networks)
                gateway = networks[outward.network].gateway if outward is not None else ""
                own = [lease.address for lease in ([outward] if outward else []) + leases]
                hosts = names.hosts_text(
                    hostname,
                    request.domainname,
                    own,
                    self._peers(connection, [lease.network for lease in leases]),
                    request.extra_hosts,
                    gateway or (networks[leases[0].network].gateway if leases else ""),
                )
                base = resolvconf.host_text()
                resolv = resolvconf.resolv_text(base, request.dns, request.dns_search, request.dns_opt)
            with self._hosts:
                names.write_in_place(directory / "hosts", hosts)
            names.write_in_place(directory / "hostname", hostname + "\n")
            names.write_in_place(directory / "resolv.conf", resolv)
        except OSError as error:
            raise from_oserror(error, "write network files of", request.name) from error

    def _peers(self, connection: sqlite3.Connection, networks: Sequence[str]) -> list[names.Peer]:
        return [
            names.Peer(lease.container, lease.name, lease.address, lease.aliases)
            for lease in records.read_leases(connection, networks=networks)
        ]

    def refresh(self, networks: Iterable[str]) -> None:
        """Bring the peers in the hosts files of all members of these networks up to date.

        Callers at one time share one pass over the files.
        """
        with self._dirty_lock:
            self._dirty.update(networks)
        with self._hosts:
            with self._dirty_lock:
                wanted, self._dirty = self._dirty, set()
            try:
                if wanted:
                    self._refresh(wanted)
            except BaseException:
                with self._dirty_lock:
                    self._dirty.update(wanted)
                raise

    def _refresh(self, networks: Collection[str]) -> None:
        for id, (text, block) in self._blocks(networks).items():
            try:
                names.write_in_place(f"{self._containers}/{id}/hosts", names.replace_block(text, block))
            except FileNotFoundError:
                continue  # the container went meanwhile
            except OSError as error:
                raise from_oserror(error, "write hosts of", id) from error

    def _blocks(self, networks: Collection[str]) -> dict[str, tuple[str, str]]:
        """The hosts file of each member as it is, and the block of peers that it should have."""
        leases = records.read_leases(self._database.read())
        peers: dict[str, list[names.Peer]] = {}
        for lease in leases:
            peer = names.Peer(lease.container, lease.name, lease.address, lease.aliases)
            peers.setdefault(lease.network, []).append(peer)
        blocks: dict[tuple[str, ...], str] = {}
        found = {}
        for id, own in by_container(leases).items():
            key = tuple(sorted(lease.network for lease in own))
            if not any(network in networks for network in key):
                continue
            text = names.read_small(f"{self._containers}/{id}/hosts")
            if text is None:
                continue
            if key not in blocks:
                blocks[key] = names.peers_block(peer for network in key for peer in peers[network])
            found[id] = (text, blocks[key])
        return found

    def defects(self) -> dict[str, tuple[Defect, ...]]:
        """How the files of the containers that are up differ: peers in hosts, what resolv.conf follows."""
        connection = self._database.read()
        wrongs: dict[str, tuple[Defect, ...]] = {}
        active = {id for id, is_up in records.read_endpoints(connection).items() if is_up}
        for id, (text, block) in self._blocks(records.read_networks(connection)).items():
            if id in active and names.BEGIN in text and block not in text:
                wrong = (Defect("hosts", "its hosts file does not name its peers as they are"),)
                wrongs[id] = wrongs.get(id, ()) + wrong
        base = resolvconf.host_text()
        for id in active:
            resolv = names.read_small(f"{self._containers}/{id}/resolv.conf")
            if resolv is not None and resolvconf.is_stale(resolv, base):
                wrong = (Defect("resolv", "the host's resolv.conf has changed since its own was written"),)
                wrongs[id] = wrongs.get(id, ()) + wrong
        return wrongs


def _hostname(request: ContainerRequest) -> str:
    """As asked, the host's own where the container shares its network, else the last part of the name."""
    if request.hostname:
        return request.hostname
    if request.network_mode == "host" or request.uts_mode == "host":
        return os.uname().nodename
    return request.name.rpartition("/")[2][:63]
