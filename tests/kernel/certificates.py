"""An authority of our own, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


class Authority:
    """`file` is its certificate. Keys are of elliptic curves: they are made in no time."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._name = directory, name
        self.file = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self._new = new
        _openssl(
            "req",
            "-x509",
            *new,
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-keyout",
            str(self._key),
            "-out",
            str(self.file),
        )

    def sign(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """A certificate for hosts (or for a client, without), and its key."""
        certificate, key = self._directory / f"{name}.cert", self._directory / f"{name}.key"
        request = self._directory / f"{name}.csr"
        _openssl("req", *self._new, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
        extensions = self._directory / f"{name}.ext"
        kinds = [f"{'IP' if host.replace('.', '').isdigit() else 'DNS'}:{host}" for host in hosts]
        extensions.write_text(f"subjectAltName={','.join(kinds)}" if kinds else "extendedKeyUsage=clientAuth")
        signer = ["-CA", str(self.file), "-CAkey", str(self._key), "-CAcreateserial", "-days", "2"]
        more = ["-extfile", str(extensions), "-out", str(certificate)]
        _openssl("x509", "-req", "-in", str(request), *signer, *more)
        return certificate, key

    def server(self, name: str, *hosts: str) -> Path:
        """Certificate and key in one file."""
        certificate, key = self.sign(name, *hosts)
        both = self._directory / f"{name}.pem"
        both.write_text(key.read_text() + certificate.read_text())
        return both
