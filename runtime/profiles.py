"""Decisions: a seccomp profile in Docker's format becomes OCI's `linux.seccomp` for one container.

Docker's format is OCI's with conditions: a rule holds where the container has capabilities (`includes`,
`excludes`: caps), on machines (arches) and kernels (minKernel); `archMap` says which further architectures go
with this machine's. https://docs.docker.com/engine/security/seccomp/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

#: By uname(2): (the format's word in arches, its word in archMap).
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


def resolve(
    profile: Mapping[str, Any], capabilities: Collection[str], machine: str, kernel: str
) -> dict[str, Any]:
    """`linux.seccomp` of a container with these capabilities; `machine` and `kernel` as uname(2) has them."""
    word, token = _MACHINES.get(machine, (machine, f"SCMP_ARCH_{machine.upper()}"))
    architectures = list(profile.get("architectures") or ())
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == token:
            architectures = [token, *(entry.get("subArchitectures") or ())]
            break
    release = _release(kernel)
    rules = [
        _plain(rule)
        for rule in profile.get("syscalls") or ()
        if _holds(rule, set(capabilities), word, release)
    ]
    kept = {key: profile[key] for key in ("defaultAction", "defaultErrnoRet", "flags") if key in profile}
    return {**kept, "architectures": architectures, "syscalls": rules}


def _plain(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Without its conditions and with `names`: an older form of the format has one `name`."""
    named = [rule["name"]] if rule.get("name") else list(rule.get("names") or ())
    kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
    return {"names": named, **kept}


def _holds(rule: Mapping[str, Any], held: set[str], machine: str, kernel: tuple[int, int]) -> bool:
    """Any exclusion excludes; every inclusion is needed."""
    out, into = rule.get("excludes") or {}, rule.get("includes") or {}
    if machine in (out.get("arches") or ()) or held & set(out.get("caps") or ()):
        return False
    if out.get("minKernel") and kernel >= _release(out["minKernel"]):
        return False
    if into.get("arches") and machine not in into["arches"]:
        return False
    if into.get("minKernel") and kernel < _release(into["minKernel"]):
        return False
    return set(into.get("caps") or ()) <= held


def _release(text: str) -> tuple[int, int]:
    """6.18.44-x -> (6, 18)."""
    words: Sequence[str] = str(text).split(".")
    digits = ["".join(char for char in word if char in "0123456789") for word in words[:2]]
    return int(digits[0] or 0), int(digits[1] or 0) if len(digits) > 1 else 0
