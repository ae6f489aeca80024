"""Effects: compiled filters of system calls, kept by the content of the profile."""

from __future__ import annotations

import os

from runtime.linux import jsontext
from runtime.oci.failure import OciFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Changes with what is compiled from the same profile.
_RELEASE = b"1"
_MAX = 1 << 20


def compiled(document: dict[str, Any], directory: str) -> tuple[bytes, int]:
    """The program and the flags to install it with. OciFailure for a profile that cannot be."""
    path = f"{directory}/{_digest(_RELEASE + jsontext.encode(document))}"
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX)
            return data[4:], int.from_bytes(data[:4], "little")
    except FileNotFoundError:
        pass
    from runtime.linux import seccomp_compile

    try:
        program, flags = seccomp_compile.compile_oci(document)
    except ValueError as error:
        raise OciFailure(f"cannot use config.json: linux.seccomp: {error}") from None
    except OSError as error:
        raise OciFailure(f"cannot compile linux.seccomp: {error.strerror}") from None
    os.makedirs(directory, 0o700, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(flags.to_bytes(4, "little") + program)
    os.rename(temporary, path)
    return program, flags


def _digest(data: bytes) -> str:
    """Without hashlib, which loads OpenSSL: 5 ms."""
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
    return blake2b(data, digest_size=32).hexdigest()
