"""Effects: the one nftables table of a state directory; published ports are elements of its maps.

What the table should hold is decided in contents.py, how that is said to nft and read back in rules.py.
`Firewall.publish` brings the kernel there in one transaction, `Firewall.update` does so for a few ports, at a
cost that does not grow with the number of ports; `check` says how the kernel differs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from runtime.net import addresses, elements, flows, nft
from runtime.net.contents import (
    ANY4,
    ANY6,
    KEYS,
    PROTOCOLS,
    Contents,
    Element,
    Held,
    Port,
    changed_ports,
    differences,
    maps_of,
    moved_udp,
    shortcuts,
)
from runtime.net.foreign import Foreign
from runtime.net.rules import (
    FAMILY,
    OLD_FAMILY,
    build_text,
    change_text,
    delete_text,
    is_whole,
    read_listing,
    rules,
    rules_digest,
)
from runtime.net.shortcut import Shortcut
from runtime.observations import Defect
from runtime.paths import write_atomically
from specs.values import PortBinding, addresses_meet


def published_elsewhere(own: str) -> list[tuple[str, str]]:
    """(family, table) of other state directories that publish ports here: of two dnat maps, one is asked."""
    found = nft.tables()
    return [
        (family, table)
        for family, table in found
        if table.startswith(addresses.TABLE) and table != own and family in (FAMILY, OLD_FAMILY)
    ]


def publishes(family: str, table: str, binding: PortBinding) -> bool:
    """Whether a table of ours has a port that takes the same packets as the binding. Looks its key up in the
    maps; only ports on single addresses are gone through, for a binding that is for all of them."""
    port = (str(PROTOCOLS[binding.protocol]), str(binding.host_port))
    for six, anywhere in (("", ANY4), ("6", ANY6)):
        if not addresses_meet(binding.host_ip, anywhere):
            continue
        specific = binding.host_ip not in ("", anywhere)
        for name, slot in ((f"published{six}", ()), (f"spread{six}", ("0",))):
            if elements.has(family, table, name, (*port, *slot)):
                return True
            at, packed = f"{name}_at", elements.pack_key(name, (*port, *slot))
            if specific and elements.has(family, table, at, (binding.host_ip, *port, *slot)):
                return True
            if not specific and any(key.endswith(packed) for key in elements.keys(family, table, at)):
                return True
    return False


#: How often the table is built anew at a time, while somebody else changes nftables, too.
ATTEMPTS = 3


class Firewall:
    """The table of one state directory. Thread-safe; callers of `publish` at one time share a transaction.

    `wanted` tells what should be there: None for no table at all. `memory` is a file under `run` that holds
    how nft listed the rules after we wrote them, since each version of nft has its own way to list them.
    """

    def __init__(
        self,
        table: str,
        memory: Path,
        wanted: Callable[[], Contents | None],
        foreign: Foreign,
        *,
        shortcut: bool = False,
    ) -> None:
        self._table = table
        self._memory = memory
        self._wanted = wanted
        self._foreign = foreign
        self._shortcut = Shortcut(table, lasting=shortcut)
        self._tickets = threading.Lock()
        self._asked = 0
        self._forced = 0
        self._working = threading.Lock()
        self._done = 0
        self._known: tuple[int, Held] | None = None  # (generation, contents), rules as we wrote them:
        self._rules = ""
        self._gone: int | None = None  # the generation in which there was no table of ours

    def close(self) -> None:
        """The table stays."""
        with self._working:
            self._shortcut.close()

    def publish(self, *, force: bool = False) -> None:
        """The table as it should be when this was called, or newer. `force`: read it back first."""
        with self._tickets:
            self._asked += 1
            ticket = self._asked
            if force:
                self._forced = ticket
        with self._working:
            if self._done >= ticket:
                return
            with self._tickets:
                target, forced = self._asked, self._forced > self._done
            self._apply(forced)
            self._done = target

    def update(
        self, ports: Collection[Port], wanted: Callable[[], Mapping[str, Collection[Element]]]
    ) -> None:
        """These ports as they should be when `wanted` is called: their elements, by map."""
        with self._working:
            now = nft.generation()
            if self._known is None or now is None or self._known[0] != now:
                self._apply(False)
                return
            held = self._known[1]
            before, after = held.of(ports), wanted()
            losses = {name: before[name].difference(after.get(name, ())) for name in KEYS}
            gains = {name: set(after.get(name, ())) - before[name] for name in KEYS}
            changes = {
                name: ([element[: KEYS[name]] for element in losses[name]], gains[name])
                for name in KEYS
                if losses[name] or gains[name]
            }
            if not changes:
                return
            self._known = None
            short, was_short = shortcuts(after), shortcuts(before)
            self._shortcut.drop([key for key, to in was_short.items() if short.get(key) != to])
            try:
                elements.change(self._table, changes, now)
            except OSError:  # somebody changed something just now: look, and do it by nft
                self._apply(False)
                return
            held.put(ports, after)
            if nft.generation() == now + 1:
                self._known = (now + 1, held)
            self._shortcut.put({key: to for key, to in short.items() if was_short.get(key) != to})
            moved = moved_udp(before, after)
        if moved:
            flows.forget_udp(moved)

    def check(self) -> tuple[Defect, ...]:
        """How the kernel differs from what is wanted; reads the table only if something changed it."""
        with self._working:
            wanted = self._wanted()
            if wanted is None:
                text = "its nftables table is left, though there is no network"
                return () if self._is_gone() else (Defect("firewall", text),)
            unchanged = self._known is not None and self._known[0] == nft.generation()
            found = self._find(rules(wanted))
            if isinstance(found, str):
                return (Defect("firewall", found), *self._foreign.defects())
            short = self._shortcut.look(shortcuts(maps_of(found)))
            moved: list[str] = []
            if unchanged:  # the kernel is as we left it: containers became ready, or are so no more
                moved = changed_ports(found, wanted)
                found = replace(found, **maps_of(wanted))
            texts = [*differences(found, wanted), *short]
            if len(texts) > 3:
                texts = [*texts[:3], f"and {len(texts) - 3} more differences"]
            defects = [Defect("port", text) for text in moved]
            return (*defects, *(Defect("firewall", text) for text in texts), *self._foreign.defects())

    # ------------------------------------------------------------

    def _apply(self, forced: bool) -> None:
        wanted = self._wanted()
        if wanted is None:
            self._remove()
            return
        if forced:
            self._known = None
            self._foreign.adapt()
        short = shortcuts(maps_of(wanted))
        self._shortcut.keep(short)
        text = rules(wanted)
        found = self._find(text)
        if isinstance(found, str):
            self._build(wanted, text)
            self._foreign.adapt()
            found = Contents()
        else:
            change = change_text(self._table, found, wanted)
            if change:
                self._write(change, wanted)
        self._shortcut.fill(short)
        moved = moved_udp(maps_of(found), maps_of(wanted))
        if moved:
            flows.forget_udp(moved)

    def _find(self, text: str) -> Contents | str:
        """What the sets hold, or why the table must be built anew: with the rules of this text."""
        now = nft.generation()
        if self._known is not None and now is not None and self._known[0] == now and self._rules == text:
            return self._known[1].whole()
        self._known = None
        document = nft.listed(["list", "table", FAMILY, self._table])
        if document is None:
            return "its nftables table is gone"
        listing = read_listing(document)
        if listing.strange:
            return "a set of its nftables table holds what we never write"
        expected = self._expected()
        if expected is None or expected[1] != listing.digest:
            return "the rules of its nftables table are not as we wrote them"
        if expected[0] != rules_digest(text):
            return "the rules of its nftables table are not those that its networks need now"
        self._rules = text
        if now is not None and now == nft.generation():
            self._known = (now, Held(listing.contents))
        return listing.contents

    def _write(self, text: str, after: Contents | None) -> None:
        before = nft.generation()
        done = nft.run(["-f", "-"], text)
        if done.returncode:
            self._known = None
            raise nft.refused("change", done)
        now = nft.generation()
        alone = before is not None and now is not None and now == before + 1
        self._known = (now, Held(after)) if alone and now is not None and after is not None else None

    def _build(self, wanted: Contents, text: str) -> None:
        """The whole table anew. Where somebody takes parts of it away again and again, it is not known to be
        as written, and the next look builds it once more."""
        self._memory.unlink(missing_ok=True)
        for _ in range(ATTEMPTS):
            self._write(build_text(self._table, wanted, text), None)
            if self._remember(wanted, text):
                return

    def _remember(self, wanted: Contents, text: str) -> bool:
        """Read back how this nft lists what we have just written. False where it is not whole any more: what
        somebody took away at once would be missing for ever in what is compared with."""
        now = nft.generation()
        document = nft.listed(["list", "table", FAMILY, self._table])
        if document is None or not is_whole(document, text):
            return False
        listing = read_listing(document)
        memory = json.dumps({"rules": rules_digest(text), "listed": listing.digest})
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._memory, memory.encode(), durable=False)
        self._rules = text
        if now is not None and now == nft.generation() and listing.contents == wanted:
            self._known = (now, Held(wanted))
        return True

    def _expected(self) -> tuple[str, str] | None:
        try:
            memory = json.loads(self._memory.read_bytes())
            return memory["rules"], memory["listed"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remove(self) -> None:
        self._known = None
        self._shortcut.close()
        if not self._is_gone():
            done = nft.run(["-f", "-"], delete_text(self._table))
            if done.returncode:
                raise nft.refused("delete", done)
            self._foreign.withdraw()
        self._memory.unlink(missing_ok=True)

    def _is_gone(self) -> bool:
        """Whether the kernel has no table of ours; asked again only when something changed nftables."""
        now = nft.generation()
        if now is None or now != self._gone:
            if not nft.is_installed():
                return True  # without networks there is no need of it
            gone = nft.listed(["list", "table", FAMILY, self._table]) is None
            self._gone = now if gone else None
            return gone
        return True
