"""Effects: what the runtime does with the name server: tell it of networks and containers, keep it running.

Every method is an ensure and thread-safe. A container that is told of here is known before its program runs,
since the server takes in the files before it answers any question that is asked later.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Set
from dataclasses import replace
from pathlib import Path

from runtime.faults import Fault, from_oserror
from runtime.linux import pidfd
from runtime.net import resolvconf
from runtime.net.dns import documents
from runtime.net.dns.documents import State
from runtime.net.dns.release import release
from runtime.net.dns.zone import Member, Network
from runtime.observations import Defect
from runtime.paths import Paths, write_atomically

#: Seconds for the server to listen where it has been told to.
START = 30.0
#: Seconds that its end is waited for when the last network has gone.
END = 5.0
_STEP = 0.002
#: The first version of documents.py whose server gives way to a newer one by itself.
HANDS_OVER = 2


class NameService:
    """The name server of one pair of directories."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._directory = paths.run / documents.DIRECTORY
        self._starting = threading.Lock()

    # ------------------------------------------------------------ tell

    def networks(self, networks: Iterable[Network]) -> None:
        """These and no others. When there are none it has ended, as a rule, when this returns."""
        wanted = list(networks)
        path = self._directory / documents.NETWORKS
        data = documents.encode_networks(wanted)
        try:
            if not wanted:
                state = self.state() if path.exists() else None
                path.unlink(missing_ok=True)
                if state is not None:
                    _wait(state)
            elif _read(path) != data:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                write_atomically(path, data, durable=False)
        except OSError as error:
            raise from_oserror(error, "write", str(path)) from error

    def member(self, member: Member) -> None:
        """A container that is about to run, or runs. Its live directory is there."""
        path = self._paths.live(member.id) / documents.MEMBER
        data = documents.encode_member(member)
        try:
            if _read(path) != data:
                write_atomically(path, data, durable=False)
                if not resolvconf.asked(member.files.gateway, member.dns):
                    self._heed()
        except OSError as error:
            raise from_oserror(error, "write names of", member.name) from error

    def _heed(self) -> None:
        """Where nobody asks about peers, hosts files name them: the server looks without being asked."""
        if self._directory.exists():
            write_atomically(self._directory / documents.HEED, b"", durable=False)

    def is_told(self, id: str) -> bool:
        return (self._paths.live(id) / documents.MEMBER).exists()

    def told(self, id: str) -> Member | None:
        """What was told of the container; None when nothing was."""
        try:
            return documents.decode_member(_read(self._paths.live(id) / documents.MEMBER))
        except ValueError:
            return None

    def leave(self, id: str) -> None:
        """The container is about to be stopped: who has a name together with it is found by that name, and it
        is no more. Telling of it again takes this back."""
        told = self.told(id)
        if told is not None:
            self.member(replace(told, leaving=True))

    # ------------------------------------------------------------ keep running

    def state(self) -> State | None:
        """What the living server last wrote; None when there is none."""
        data = _read(self._directory / documents.STATE)
        try:
            state = documents.decode_state(data) if data else None
        except ValueError:
            return None
        return state if state is not None and pidfd.is_alive(state.pid, state.start) else None

    def ensure(self, gateways: Iterable[str]) -> dict[str, str]:
        """A server of this release, or a newer one, that has tried to listen on these addresses. Returns
        where it cannot. Fault names-failed when none can be started."""
        wanted = set(gateways)
        with self._starting:
            deadline = time.monotonic() + START
            state = self.state()
            if state is not None and state.release.version < min(HANDS_OVER, documents.VERSION):
                pidfd.kill(state.pid, state.start)
            if state is None or state.release < release():
                self._start()
            while (state := self.state()) is None or not _serves(state, wanted):
                if time.monotonic() > deadline:
                    raise Fault("names-failed", "start", "name server", self._cause(state))
                time.sleep(_STEP)
            return {key: text for key, text in state.failed.items() if key in wanted}

    def renew(self) -> None:
        """One that runs and is older gives way to one of this release. Nothing is planned for that: it is no
        drift. Fault names-failed."""
        state = self.state()
        if state is not None and state.release < release():
            self.ensure(())

    def _cause(self, state: State | None) -> str:
        noted = _read(self._directory / documents.ERROR).decode("utf-8", "replace")
        late = f"it does not listen after {START:g} s" if state is not None else "it does not start"
        return noted or late

    def _start(self) -> None:
        """The program forks, so that what is waited for here ends at once."""
        (self._directory / documents.ERROR).unlink(missing_ok=True)
        program = Path(__file__).with_name("process.py")
        command = [
            sys.executable,
            "-I",
            "-S",
            "-OO",
            "-X",
            "no_debug_ranges",
            str(program),
            str(self._paths.run.resolve()),
        ]
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                check=True,
                timeout=START,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Fault("names-failed", "start", "name server", str(error).lower()) from error

    # ------------------------------------------------------------ look

    def defects(self, gateways: Iterable[str], state: State | None) -> tuple[Defect, ...]:
        """How it does not serve at the gateways of one network, where containers are told of."""
        if state is None:
            return (Defect("names", "the name server of this node does not run"),)
        if state.release.version < documents.VERSION:
            return (Defect("names", "the name server of this node is of an older release"),)
        return tuple(
            Defect("names", f"{gateway} has no name server, it {state.failed[gateway]}")
            if gateway in state.failed
            else Defect("names", f"no name server listens on {gateway}")
            for gateway in gateways
            if gateway in state.failed or gateway not in state.listening
        )


def _serves(state: State, wanted: Set[str]) -> bool:
    """Whether it is no older than we are, and has tried to listen on these addresses."""
    return state.release >= release() and wanted <= {*state.listening, *state.failed}


def _wait(state: State) -> None:
    """Until it has ended, at most END seconds."""
    try:
        fd = pidfd.open_pidfd(state.pid)
    except OSError:
        return
    try:
        if pidfd.is_alive(state.pid, state.start):
            pidfd.wait(fd, END)
    finally:
        os.close(fd)


def _read(path: Path) -> bytes:
    """Empty when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.read(fd, min(os.fstat(fd).st_size, documents.MAX_SIZE))
    finally:
        os.close(fd)
