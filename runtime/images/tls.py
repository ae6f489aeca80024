"""Effects: whom a connection to a registry trusts, and as whom it presents itself: files into TLS contexts.

Source: Docker "Verify repository client with certificates": below certs.d, a directory named as the
registry is (`host` or `host:port`) has authorities in `*.crt`, and client certificates in `*.cert` with a
`*.key` each.
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

CERTS = Path("/etc/docker/certs.d")


class CertificateError(Exception):
    """A file of certificates cannot be used; the text is for people."""


@dataclass(frozen=True, slots=True)
class Trust:
    """`authorities` are PEM files, all that is trusted where there is one; `clients` pairs of certificate
    and key.
    """

    authorities: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()

    @classmethod
    def find(cls, netloc: str, directory: Path | None) -> Trust:
        """What lies in `directory` for a registry. Raises CertificateError."""
        place = directory / netloc if directory is not None else None
        try:
            names = sorted(os.listdir(place)) if place is not None and "/" not in netloc else []
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as error:
            raise CertificateError(f"cannot read {place}: {(error.strerror or '').lower()}") from error
        assert place is not None or not names
        clients = []
        for name in names:
            certificate = f"{place}/{name}"
            if name.endswith(".cert"):
                key = f"{certificate.removesuffix('.cert')}.key"
                if not os.path.exists(key):
                    raise CertificateError(f"{certificate} has no {os.path.basename(key)} beside it")
                clients.append((certificate, key))
        return cls(tuple(f"{place}/{name}" for name in names if name.endswith(".crt")), tuple(clients))


def context(trust: Trust, *, with_system: bool = False) -> ssl.SSLContext:
    """For a registry's own host: its authorities only, or the system's where it has none, and its client
    certificates. `with_system` is for other hosts that it sends to: authorities of both, no client
    certificate. Raises CertificateError.
    """
    try:
        if with_system or not trust.authorities:
            made = ssl.create_default_context()
        else:
            made = ssl.create_default_context(cafile=trust.authorities[0])
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            _unreadable(trust.authorities[0] if trust.authorities else "", error)
        ) from error
    # Strict since Python 3.13: authorities of one's own rarely pass that, and other tools take them.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    for path in trust.authorities:
        try:
            made.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(_unreadable(path, error)) from error
    for certificate, key in () if with_system else trust.clients:
        try:
            made.load_cert_chain(certificate, key, password=_refuse)
        except _Encrypted:
            raise CertificateError(f"cannot use {key}: it is encrypted") from None
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(_unreadable(f"{certificate} with {key}", error)) from error
    return made


class _Encrypted(ValueError):
    pass


def _refuse() -> str:
    """OpenSSL would ask the terminal for the password of a key."""
    raise _Encrypted


def _unreadable(what: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "not in the PEM format, or damaged").replace("_", " ")
    else:
        reason = error.strerror or str(error)
    return f"cannot use {what or 'the certificates of the system'}: {reason.lower()}"


def probe(host: str, port: int, trust: Trust, timeout: float) -> str:
    """The sha256 fingerprint of the certificate that a server shows, to hold it to; empty: no TLS there."""
    found = context(Trust((), trust.clients))
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout) as plain:
            with found.wrap_socket(plain, server_hostname=host) as secure:
                return hashlib.sha256(secure.getpeercert(True) or b"").hexdigest()
    except OSError:
        return ""
