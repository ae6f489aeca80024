"""Effects: which devices the processes of a cgroup may use: rules as values, and the eBPF program of cgroup
v2.

Documentation/admin-guide/cgroup-v2.rst (device controller), bpf(2), struct bpf_cgroup_dev_ctx in linux/bpf.h;
the v1 controller takes the same rules as text. Everything that no rule allows is denied.
"""

from __future__ import annotations

import os
import stat

from runtime.linux import bpf
from runtime.linux.bpf import instruction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Rule = tuple[str, int, int, str]

ANY = -1
#: (type, major, minor, access): nodes may be made, those of every container be used (OCI config-linux.md).
DEFAULT: tuple[Rule, ...] = (
    ("c", ANY, ANY, "m"),
    ("b", ANY, ANY, "m"),
    ("c", 1, 3, "rwm"),
    ("c", 1, 5, "rwm"),
    ("c", 1, 7, "rwm"),
    ("c", 1, 8, "rwm"),
    ("c", 1, 9, "rwm"),
    ("c", 5, 0, "rwm"),
    ("c", 5, 2, "rwm"),
    ("c", 136, ANY, "rwm"),
)
EVERYTHING: Rule = ("a", ANY, ANY, "rwm")

_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2}


def cgroup_rules(rules: Sequence[Mapping[str, Any]]) -> list[Rule]:
    """The default set with what OCI rules allow beyond it; FileNotFoundError for a `path` that is not
    there.
    """
    found = list(DEFAULT)
    for rule in rules:
        if not rule.get("allow"):
            continue
        access = str(rule.get("access") or "rwm")
        if "path" in rule:
            node = os.stat(str(rule["path"]))
            kind = "b" if stat.S_ISBLK(node.st_mode) else "c"
            found.append((kind, os.major(node.st_rdev), os.minor(node.st_rdev), access))
        elif "major" in rule or "minor" in rule or rule.get("type") in ("b", "c"):
            numbers = (int(rule.get(key, ANY)) for key in ("major", "minor"))
            found.append((str(rule.get("type") or "c"), *numbers, access))  # type: ignore[arg-type]
        else:
            return [EVERYTHING]
    return found


def program(rules: Sequence[Rule]) -> bytes:
    """eBPF instructions that return 1 for what a rule allows, else 0.

    r2 is the type of the device, r3 the access wanted, r4 and r5 major and minor.
    """
    code = [
        instruction(0x61, 2, 1, 0, 0),
        instruction(0xBC, 3, 2, 0, 0),
        instruction(0x54, 2, 0, 0, 0xFFFF),
        instruction(0x74, 3, 0, 0, 16),
        instruction(0x61, 4, 1, 4, 0),
        instruction(0x61, 5, 1, 8, 0),
    ]
    for rule in rules:
        code += _test(rule)
        if rule == EVERYTHING:  # the kernel refuses instructions that are never reached
            return b"".join(code)
    code += [instruction(0xB7, 0, 0, 0, 0), instruction(0x95, 0, 0, 0, 0)]
    return b"".join(code)


def _test(rule: Rule) -> list[bytes]:
    """Each condition that fails jumps past the rule's own `return 1`."""
    kind, major, minor, access = rule
    conditions: list[list[tuple[int, int, int, int]]] = []  # code, destination, source, immediate
    if kind in _TYPES:
        conditions.append([(0x55, 2, 0, _TYPES[kind])])
    allowed = sum(_ACCESS[letter] for letter in access)
    if allowed != 7:
        conditions.append([(0xBC, 0, 3, 0), (0x54, 0, 0, 7 & ~allowed), (0x55, 0, 0, 0)])
    if major != ANY:
        conditions.append([(0x55, 4, 0, major)])
    if minor != ANY:
        conditions.append([(0x55, 5, 0, minor)])
    steps = [step for condition in conditions for step in condition]
    code = []
    for index, (operation, to, source, value) in enumerate(steps):
        past = len(steps) - index - 1 + 2
        code.append(instruction(operation, to, source, past if operation == 0x55 else 0, value))
    return [*code, instruction(0xB7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)]


def attach_program(directory: int, rules: Sequence[Rule]) -> None:
    """Hold the cgroup (v2) behind this descriptor to `rules`; replaces what was attached by us before."""
    loaded = bpf.load(bpf.CGROUP_DEVICE_PROGRAM, program(rules), "stead_devices")
    try:
        bpf.attach(directory, loaded, bpf.DEVICE, bpf.ALLOW_OVERRIDE)
    finally:
        os.close(loaded)
