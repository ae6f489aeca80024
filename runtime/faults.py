"""Values: what went wrong in the runtime, and who must act next.

A Fault is the only exception that leaves `runtime` (besides programming errors). The agent decides by
`code` whether to
retry (`TRANSIENT`), to wait for something, or to ask a person. The kernel layer raises OSError; runtime
turns it into a Fault.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

#: code -> one line for docs and for `stead explain`. Codes are stable: metrics and users refer to them.
CODES: dict[str, str] = {
    "image-not-found": "no registry or store has an image of this name",
    "image-in-use": "a container, or an image made from it, uses the image",
    "registry-unreachable": "the registry did not answer",
    "registry-denied": "the registry refused the credentials, or wants some",
    "registry-refused": "the registry does not take what was pushed",
    "registry-busy": "the registry asked to come back later (429)",
    "digest-mismatch": "bytes do not have the digest that names them",
    "manifest-invalid": "a manifest, index or image config is malformed or too large",
    "layer-invalid": "a layer cannot be unpacked safely",
    "archive-invalid": "an archive is not an image archive or root filesystem",
    "platform-missing": "the image has no variant for this machine's platform",
    "build-failed": "a step of a build could not be done",
    "dockerfile-invalid": "a Dockerfile cannot be built as it is written",
    "disk-full": "no space is left where it is needed",
    "port-taken": "a published port is in use",
    "address-exhausted": "a network has no free address left",
    "ids-exhausted": "no range of user and group ids is left for a container",
    "address-taken": "the address asked for is leased to another container",
    "subnet-overlap": "a subnet overlaps another network or a route of the host",
    "network-not-found": "no network of this name",
    "network-in-use": "containers are attached to the network",
    "volume-not-found": "no volume of this name",
    "volume-in-use": "a container uses the volume, or a backup or restore of it is under way",
    "volume-refused": "a volume cannot be what its options ask for",
    "volume-kept": "the volume is marked to be kept",
    "volume-not-empty": "a volume that is to be filled has data",
    "backup-invalid": "a file is no whole backup of a volume, or there is none",
    "backup-differs": "what was restored is not what the backup says",
    "mount-source-missing": "the source of a mount, or a device, does not exist",
    "container-not-found": "no container of this name or id",
    "container-exists": "a container of this name exists",
    "container-not-running": "the container is not running",
    "container-paused": "the container is paused",
    "container-running": "the container is running",
    "copy-refused": "what is to be copied cannot be, or not there",
    "start-failed": "the program could not be started",
    "logger-unavailable": "journald or syslog, which is to take the output, is not there",
    "limit-unsupported": "this kernel cannot apply a limit that was asked for",
    "kernel-unsupported": "the kernel lacks a feature that is needed",
    "firewall-failed": "nft refused the ruleset",
    "names-failed": "the name server of the containers does not start",
    "request-invalid": "the request contradicts itself or the image",
    "secret-lost": "the bytes of a secret or config are not kept any more, or not readable",
    "shim-unreachable": "the supervisor of a container did not answer",
    "locked": "another process holds the state directory",
    "database-invalid": "the state database is damaged or of a newer release",
    "kernel-error": "a system call failed in a way that has no code of its own",
}

#: Faults that pass by themselves; the agent retries with backoff without telling a person to act.
TRANSIENT = frozenset(
    {
        "registry-unreachable",
        "registry-busy",
        "shim-unreachable",
        "kernel-error",
        "firewall-failed",
        "names-failed",
        "logger-unavailable",
    }
)


class Fault(Exception):
    """cannot <operation> <subject>: <cause>

    `operation` is a verb phrase ("pull image"), `subject` names the thing, `cause` is one lower-case clause,
    `hint` tells the cure where it is known.
    """

    def __init__(self, code: str, operation: str, subject: str, cause: str, hint: str = "") -> None:
        assert code in CODES, code
        subject, cause, hint = printable(subject), printable(cause), printable(hint)
        super().__init__(code, operation, subject, cause, hint)
        self.code, self.operation, self.subject, self.cause, self.hint = code, operation, subject, cause, hint

    def __str__(self) -> str:
        text = f"cannot {self.operation} {self.subject}: {self.cause}"
        return f"{text} ({self.hint})" if self.hint else text


def printable(text: str) -> str:
    """Without what a terminal would obey or UTF-8 cannot hold: names and messages come from strangers,
    too.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def from_oserror(error: OSError, operation: str, subject: str) -> Fault:
    """The Fault for an OSError of the kernel layer; ENOSPC and EDQUOT become `disk-full`."""
    code = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "kernel-error"
    where = f" ({error.filename})" if error.filename else ""
    return Fault(code, operation, subject, f"{error.strerror or error}{where}".lower())


@contextmanager
def faults(operation: str, subject: str) -> Iterator[None]:
    """Turn every OSError inside into a Fault that names `operation` and `subject`."""
    try:
        yield
    except OSError as error:
        raise from_oserror(error, operation, subject) from error
