"""Effects: what a shim is told of a logger other than our own files, once that is seen to be there."""

from __future__ import annotations

import errno
import os
import re
import socket
from typing import Any

from runtime.faults import Fault
from runtime.wishes import ContainerRequest

#: Where systemd-journald takes entries: systemd-journald.service(8).
JOURNAL = "/run/systemd/journal/socket"
SHORT_ID = 12


def document(request: ContainerRequest, id: str, image_id: str) -> dict[str, Any] | None:
    """The `log` object of supervise.json; None: our own files. Fault logger-unavailable where there is no
    journald or no syslog, or its host is not known: a container whose output nobody would see does not start.
    """
    asked = request.logger
    if asked.driver == "local":
        return None
    if asked.driver == "none":
        return {"driver": "none"}
    waiting = {"mode": asked.mode, "buffer": asked.max_buffer_size}
    tag = _tag(asked.tag, request, id, image_id)
    if asked.driver == "journald":
        _connect(request.name, JOURNAL, "journald", "it is part of systemd; choose another logging driver")
        fields = {
            "CONTAINER_ID": id[:SHORT_ID],
            "CONTAINER_ID_FULL": id,
            "CONTAINER_NAME": request.name,
            "CONTAINER_TAG": tag,
            "IMAGE_NAME": request.image_called or request.image.familiar,
            "SYSLOG_IDENTIFIER": tag,
        }
        return {"driver": "journald", "address": JOURNAL, "fields": fields, **waiting}
    return {
        "driver": "syslog",
        "address": _syslog_address(request.name, asked.address),
        "tag": tag.replace(" ", "_"),
        "facility": asked.facility,
        "format": asked.format,
        "host": os.uname().nodename,
        **waiting,
    }


def _tag(template: str, request: ContainerRequest, id: str, image_id: str) -> str:
    """Docker's template words; the short id is the default."""
    image = image_id.removeprefix("sha256:")
    words = {
        "ID": id[:SHORT_ID],
        "FullID": id,
        "Name": request.name,
        "ImageID": image[:SHORT_ID],
        "ImageFullID": image,
        "ImageName": request.image_called or request.image.familiar,
        "DaemonName": "stead",
    }
    return re.sub(r"\{\{\.(\w+)\}\}", lambda found: words.get(found[1], ""), template or "{{.ID}}")


def _connect(name: str, path: str, what: str, hint: str) -> bool:
    """Whether the socket is one of datagrams; else it is one of streams. One that takes no more
    connections for now is there: it is the shim that waits."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
                return kind == socket.SOCK_DGRAM
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.EPROTOTYPE or kind == socket.SOCK_STREAM:
                    cause = f"{what} does not answer at {path}: {(error.strerror or '').lower()}"
                    raise Fault("logger-unavailable", "start container", name, cause, hint) from None
    raise AssertionError("a socket is of one kind or the other")


def _syslog_address(name: str, address: str) -> str:
    """With the kind of a unix socket, or the address of a host, which a shim asks no name server for."""
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        hint = "start a syslog daemon, or choose another logging driver"
        return address if _connect(name, rest, "syslog", hint) else f"unix-stream://{rest}"
    host, _, port = rest.rpartition(":")
    kind = socket.SOCK_STREAM if scheme == "tcp" else socket.SOCK_DGRAM
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=kind)[0][4][0]
    except OSError as error:
        cause = f"the host of its syslog-address, {host}, is not known: {(error.strerror or '').lower()}"
        raise Fault("logger-unavailable", "start container", name, cause, "correct syslog-address") from None
    return f"{scheme}://[{found}]:{port}"
