"""A seccomp profile in Docker's format: its mistakes have a place, its conditions are decided once."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from agent.sources.revision import relevant
from runtime import profiles
from specs.resolve import resolve
from specs.security import read_profile

SPEC = b'[container.web]\nimage = "a"\nsecurity_opt = ["seccomp=seccomp/web.json"]\n'
GOOD: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {"names": ["read", "not_made_yet"], "action": "SCMP_ACT_ALLOW", "comment": "of every program"},
        {"name": "write", "action": "SCMP_ACT_ALLOW"},
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
        },
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "6.0", "arches": ["arm64"]}},
    ],
}


def named(capabilities: tuple[str, ...], machine: str, kernel: str) -> set[str]:
    document = profiles.resolve(GOOD, capabilities, machine, kernel)
    return {name for rule in document["syscalls"] for name in rule["names"]}


ALWAYS = {"read", "not_made_yet", "write", "personality"}


def test_rules_hold_for_capabilities_machines_and_kernels() -> None:
    assert named((), "x86_64", "6.1.0-13-amd64") == ALWAYS | {"clone", "arch_prctl", "ptrace"}
    assert named(("CAP_SYS_ADMIN",), "aarch64", "5.10.1") == ALWAYS | {"mount", "ptrace"}
    assert named((), "x86_64", "4.7.9") == ALWAYS | {"clone", "arch_prctl", "bpf"}


def test_further_architectures_come_with_this_machine() -> None:
    found = profiles.resolve(GOOD, (), "x86_64", "6.1")
    assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert profiles.resolve(GOOD, (), "riscv64", "6.1")["architectures"] == []
    assert (found["defaultAction"], found["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_a_profile_of_the_source_is_part_of_the_container() -> None:
    files = {"x.toml": SPEC, "seccomp/web.json": json.dumps(GOOD, indent=2).encode()}
    desired, problems = resolve(files, source="s", variables={})
    assert problems == ()
    (one,) = desired.containers.values()
    assert json.loads(one.seccomp_profile) == GOOD
    files["seccomp/web.json"] = json.dumps(GOOD).encode()  # only written otherwise
    (same,) = resolve(files, source="s", variables={})[0].containers.values()
    assert same.identity == one.identity
    files["seccomp/web.json"] = json.dumps({**GOOD, "defaultErrnoRet": 1}).encode()
    (other,) = resolve(files, source="s", variables={})[0].containers.values()
    assert other.identity != one.identity


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"defaultAction": "SCMP_ACT_DENY"}, "defaultAction: 'SCMP_ACT_DENY' is not an action"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction: nobody here would answer the calls"),
        ({"defaultErrnoRet": 5000}, "defaultErrnoRet: an errno is a number from 0 to 4095"),
        ({"architectures": ["SCMP_ARCH_X86"]}, "archMap: architectures says the same"),
        ({"archMap": None, "architectures": ["X86"]}, "architectures[0]: 'X86' is not an architecture"),
        ({"archMap": [{}]}, "archMap[0].architecture: '' is not an architecture"),
        (
            {"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]},
            "flags[0]: 'SECCOMP_FILTER_FLAG_NEW_LISTENER' is not",
        ),
        ({"syscall": []}, "syscall: unknown key (did you mean 'syscalls'?)"),
        ({"syscalls": {}}, "syscalls: write a list of objects"),
        ({"syscalls": [{"action": "SCMP_ACT_LOG"}]}, "syscalls[0]: write names"),
        ({"syscalls": [{"names": ["a"]}]}, "syscalls[0]: 'action' is missing"),
        (
            {"syscalls": [{"names": [1], "action": "SCMP_ACT_LOG"}]},
            "syscalls[0].names: write a list of words",
        ),
        (
            {"syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "op": "EQ"}]}]},
            "syscalls[0].args[0].op: 'EQ' is not a comparison",
        ),
        (
            {"syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG", "includes": {"cap": []}}]},
            "syscalls[0].includes.cap: unknown key (did you mean 'caps'?)",
        ),
        (
            {"syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG", "excludes": {"minKernel": "new"}}]},
            "syscalls[0].excludes.minKernel: 'new' is not a version such as 4.8",
        ),
    ],
)
def test_a_mistake_in_a_profile_is_said(change: dict[str, Any], expected: str) -> None:
    text, problems = read_profile("seccomp.json", json.dumps({**GOOD, **change}).encode())
    assert text == ""
    assert expected in "\n".join(map(str, problems))


def test_a_mistake_has_its_place_in_the_profile() -> None:
    rule = '\t\t{"names": ["a"], "action": "X"}'
    text = f'{{\n\t"defaultAction": "SCMP_ACT_ALLOW",\n\t"syscalls": [\n{rule}\n\t]\n}}'.encode()
    (problem,) = resolve({"x.toml": SPEC, "seccomp/web.json": text}, source="s", variables={})[1]
    assert str(problem) == "seccomp/web.json:4:30: syscalls[0].action: 'X' is not an action"
    comma = (2, 8) if sys.version_info >= (3, 13) else (3, 1)  # where it is, or what it is before
    for broken, place in ((b'{\n "a": 1,\n}', comma), (b"[]", (1, 1)), (b"\xff", (1, 1))):
        (problem,) = read_profile("p", broken)[1]
        assert (problem.line, problem.column) == place


def test_only_json_about_seccomp_is_read() -> None:
    found = [path for path in ("a/seccomp.json", "seccomp/a.json", "package.json") if relevant(path)]
    assert found == ["a/seccomp.json", "seccomp/a.json"]
