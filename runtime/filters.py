"""Effects: compiled system call filters under `run/seccomp`, each compiled once: one for each set of
capabilities, and for each profile with them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from runtime import profiles
from runtime.linux import seccomp_compile
from runtime.paths import write_atomically


def filter_file(run: Path, granted: Iterable[str], profile: str = "") -> Path:
    """The default filter, or that of `profile` (JSON in Docker's format), for a container that has these
    capabilities. Repeatable. OSError EINVAL for a profile that is none."""
    names = tuple(sorted(set(granted)))
    if not profile:
        # A newer release has another list.
        digest = hashlib.sha256(seccomp_compile.read_default()).hexdigest()
        return _once(run, f"{' '.join(names)} {digest}", lambda: seccomp_compile.compile_default(names))

    def compile() -> bytes:
        machine = os.uname()
        try:
            document = profiles.resolve(json.loads(profile), names, machine.machine, machine.release)
            return seccomp_compile.compile_oci(document)[0]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OSError(22, f"its profile: {error}") from error

    return _once(run, f"{' '.join(names)}\n{profile}", compile)


def flags_of(profile: str) -> int:
    """SECCOMP_FILTER_FLAG_* that a profile asks for. Pure."""
    words = json.loads(profile).get("flags") or () if profile else ()
    return sum(seccomp_compile.FLAGS.get(str(word), 0) for word in set(words))


def _once(run: Path, identity: str, compile: Callable[[], bytes]) -> Path:
    path = run / "seccomp" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.bpf"
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, compile(), durable=False)
    return path
