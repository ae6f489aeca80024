"""The look-up of a filter in a tree answers as the rules one after the other do: both programs are run here,
by an interpreter of classic BPF, with every number of a call and every value that a rule speaks of."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from runtime import bundle
from runtime.linux import seccomp_compile

#: AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, AUDIT_ARCH_AARCH64, AUDIT_ARCH_ARM, and one that no filter names
ARCHES = (0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0x80000016)
X32 = 0x40000000
NUMBERS = (*range(600), *range(0x0F0000, 0x0F0006), *range(X32, X32 + 600), 0xFFFFFFFF)
ARGUMENTS = 16  # offset of the first in struct seccomp_data
ALLOW = 0x7FFF0000
Program = list[tuple[int, int, int, int]]

OCI = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        {
            "names": ["read", "write", "openat", "exit_group", "futex", "fchmodat2"],
            "action": "SCMP_ACT_ALLOW",
        },
        {"names": ["getcwd", "mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
        },
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        },
        {
            "names": ["socket"],
            "action": "SCMP_ACT_LOG",
            "args": [
                {"index": 0, "value": 40, "op": "SCMP_CMP_NE"},
                {"index": 2, "value": 1, "op": "SCMP_CMP_GT"},
            ],
        },
    ],
}


def default(*, tree: bool) -> bytes:
    return seccomp_compile.compile_default(bundle.DEFAULT_CAPABILITIES, tree=tree)


def profile(*, tree: bool) -> bytes:
    return seccomp_compile.compile_oci(OCI, tree=tree)[0]


def decoded(program: bytes) -> Program:
    return [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]


def run(program: Program, data: bytes) -> tuple[int, bool]:
    """(the answer, whether it looked at an argument). bpf(4) of BSD; Documentation/networking/filter.rst."""
    at, value, looked = 0, 0, False
    while True:
        code, yes, no, operand = program[at]
        at += 1
        match code:
            case 0x20:  # ld [k]
                looked = looked or operand >= ARGUMENTS
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x06:  # ret k
                return operand, looked
            case 0x54:  # and k
                value &= operand
            case 0x05:  # ja k
                at += operand
            case 0x15 | 0x25 | 0x35 | 0x45:  # jeq, jgt, jge, jset
                holds = {
                    0x15: value == operand,
                    0x25: value > operand,
                    0x35: value >= operand,
                    0x45: bool(value & operand),
                }[code]
                at += yes if holds else no
            case _:
                raise AssertionError(f"instruction {code:#x}")


def data(arch: int, number: int, argument: int) -> bytes:
    return struct.pack("=IIQ6Q", number, arch, 0, *[argument] * 6)


@pytest.mark.parametrize("compile", [default, profile])
def test_a_tree_answers_as_the_list_does(compile: Callable[..., bytes]) -> None:
    tree, listed = decoded(compile(tree=True)), decoded(compile(tree=False))
    assert tree != listed, "libseccomp took the wish"
    constants = {operand for code, _, _, operand in listed if code & 0x07 == 0x05}
    values = sorted(
        {(c + near) % 2**64 for c in constants if c < 2**31 for near in (-1, 0, 1)} | {2**32, 2**63}
    )
    answers, asked = set(), 0
    for arch in ARCHES:
        for number in NUMBERS:
            answer, looked = run(listed, data(arch, number, 0))
            assert run(tree, data(arch, number, 0))[0] == answer, (hex(arch), number)
            answers.add(answer)
            for value in values if looked else ():
                asked += 1
                one = data(arch, number, value)
                answer = run(listed, one)[0]
                assert run(tree, one)[0] == answer, (hex(arch), number, value)
                answers.add(answer)
    assert {ALLOW, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS} <= answers and asked > 1000
