"""Effects: one message after another to a socket of journald or syslog. Nothing here waits unless asked to.

systemd's native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/; fields as Docker's journald driver has
them. Syslog: RFC 3164, RFC 5424; over TCP a message ends with a newline, or, in the newer format, its length
comes first (RFC 6587).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import sys
import time

from runtime.shim.messages import STDERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Severities of the two streams, as Docker has them: err, info.
ERROR, INFO = 3, 6
DAEMON = 3
#: Seals of a memfd, which journald insists on: fcntl(2).
F_ADD_SEALS, SEALS = 1033, 0x0F
#: Bytes of a line that a datagram must hold; where it does not, the line is left out.
LEAST = 64
RFC3164, RFC5424, RFC5424_MICRO = "rfc3164", "rfc5424", "rfc5424micro"


class Message:
    """A line without its end, or a part of a long one. `moment` is in ns since the epoch."""

    __slots__ = ("data", "moment", "partial", "stream")

    def __init__(self, stream: int, moment: int, data: bytes, partial: bool) -> None:
        self.stream, self.moment, self.data, self.partial = stream, moment, data, partial

    @property
    def severity(self) -> int:
        return ERROR if self.stream == STDERR else INFO


class Sender:
    """A socket that is opened with the first message, and anew after an error. `encode` makes a message's
    bytes; one that is too large for a datagram goes as a file, where the other side is journald."""

    def __init__(
        self, kind: int, family: int, address: Any, encode: Callable[[Message], bytes], *, files: bool = False
    ) -> None:
        self._kind, self._family, self._address = kind, family, address
        self._encode, self._files = encode, files
        self._socket: socket.socket | None = None
        self._rest = b""  # of a message that a stream took in part
        self._most = sys.maxsize  # bytes of a line that a datagram holds, as far as is known
        self.lost = 0  # bytes of lines that none holds

    def send(self, message: Message) -> bool:
        """False: not now, `fileno` will be writable. OSError: nobody is there."""
        line = self._open()
        if not self.flush():
            return False
        try:
            if self._kind == socket.SOCK_STREAM:
                _see_that_it_stays(line)
                data = self._encode(message)
                self._rest = data[line.send(data) :]
            elif self._files:
                self._entry(line, self._encode(message))
            else:
                self._datagrams(line, message)
        except BlockingIOError:
            return False
        return True

    def flush(self) -> bool:
        """Whether nothing is left of a message that was taken in part. OSError as in `send`."""
        while self._rest and self._socket is not None:
            try:
                self._rest = self._rest[self._socket.send(self._rest) :]
            except BlockingIOError:
                return False
        return True

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def wait(self, timeout: float) -> bool:
        """Whether it is writable within `timeout` seconds."""
        if self._socket is None or timeout <= 0:
            return False
        return bool(select.select([], [self._socket], [], timeout)[1])

    def close(self) -> None:
        """Repeatable; the next message opens it anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket, self._rest = None, b""

    def _open(self) -> socket.socket:
        if self._socket is None:
            made = socket.socket(self._family, self._kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self._socket = made
            code = made.connect_ex(self._address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        return self._socket

    def _datagrams(self, line: socket.socket, message: Message) -> None:
        """A line that is too large for one goes in several, as one of more than MAX_LINE does; what is sent
        is taken from `message`. BlockingIOError as in send(2)."""
        while True:
            piece = message.data[: self._most]
            part = Message(message.stream, message.moment, piece, message.partial)
            try:
                line.send(self._encode(part))
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                if len(piece) <= LEAST:
                    self.lost += len(message.data)
                    return
                self._most = max(LEAST, len(piece) // 2)
                continue
            message.data = message.data[len(piece) :]
            if not message.data:
                return

    def _entry(self, line: socket.socket, data: bytes) -> None:
        try:
            line.send(data)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.write(fd, data)
                fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
                line.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
            finally:
                os.close(fd)


def _see_that_it_stays(line: socket.socket) -> None:
    """OSError when the other side has closed the connection: TCP would take one more message, for nobody."""
    try:
        if not line.recv(1, socket.MSG_PEEK):
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
    except BlockingIOError:
        pass


class Journal:
    """`fields` are those of every message."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = b"".join(field(name, value.encode()) for name, value in fields.items() if value)

    def encode(self, message: Message) -> bytes:
        parts = [field("MESSAGE", message.data), self._fields, b"PRIORITY=%d\n" % message.severity]
        parts.append(b"SYSLOG_TIMESTAMP=" + stamp(message.moment, 9).encode() + b"\n")
        if message.partial:
            parts.append(b"CONTAINER_PARTIAL_MESSAGE=true\n")
        return b"".join(parts)


def field(name: str, value: bytes) -> bytes:
    """Values with a newline have their length before them."""
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"


class Syslog:
    """`text` is one of the formats, or empty: what /dev/log takes, RFC 3164 without a host name. `framed`:
    the way is a stream of bytes."""

    def __init__(self, *, facility: int, tag: str, text: str, host: str, framed: bool) -> None:
        self._facility, self._tag, self._text, self._host = facility, tag, text, host
        self._framed, self._pid = framed, os.getpid()

    def encode(self, message: Message) -> bytes:
        priority, data = self._facility * 8 + message.severity, message.data.replace(b"\0", b" ")
        if self._text in (RFC5424, RFC5424_MICRO):
            at = stamp(message.moment, 6 if self._text == RFC5424_MICRO else 0)
            head = f"<{priority}>1 {at} {self._host} {self._tag} {self._pid} {self._tag} - "
        else:
            at = local_stamp(message.moment)
            host = f"{self._host} " if self._text == RFC3164 else ""
            head = f"<{priority}>{at} {host}{self._tag}[{self._pid}]: "
        whole = head.encode() + data
        if not self._framed:
            return whole
        return b"%d %s" % (len(whole), whole) if self._text.startswith(RFC5424) else whole + b"\n"


def stamp(moment: int, digits: int) -> str:
    """UTC, RFC 3339."""
    seconds, rest = divmod(moment, 1_000_000_000)
    fraction = f".{rest:09d}"[: digits + 1] if digits else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def local_stamp(moment: int) -> str:
    """RFC 3164, section 4.1.2: local time, English months, the day padded with a blank."""
    at = time.localtime(moment // 1_000_000_000)
    return f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2d} {at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}"


def sender(document: dict[str, Any]) -> Sender:
    """Of the `log` object of supervise.json. ValueError for an address that is none."""
    address = str(document["address"])
    if document["driver"] == "journald":
        encoder = Journal(document["fields"])
        return Sender(socket.SOCK_DGRAM, socket.AF_UNIX, address, encoder.encode, files=True)
    scheme, _, rest = address.partition("://")
    kind = socket.SOCK_STREAM if scheme in ("tcp", "unix-stream") else socket.SOCK_DGRAM
    where: Any = rest
    family = socket.AF_UNIX
    if scheme in ("tcp", "udp"):
        host, _, port = rest.rpartition(":")
        where = (host.strip("[]"), int(port))
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    syslog = Syslog(
        facility=int(document.get("facility", DAEMON)),
        tag=str(document["tag"]),
        text=str(document.get("format") or ""),
        host=str(document.get("host") or "-"),
        framed=kind == socket.SOCK_STREAM,
    )
    return Sender(kind, family, where, syslog.encode)
