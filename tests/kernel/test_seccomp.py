"""A container's own seccomp profile, by what the kernel then does. Needs root."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from runtime.faults import Fault
from runtime.linux import seccomp, seccomp_compile
from tests.kernel.engine_box import PYTHON, Engine, engine, with_python

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CALLS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    print(name, errno.errorcode.get(ctypes.get_errno(), "ok"))
call("getpriority", 140, 0, 0)
call("personality 0", 135, 0)
call("personality 8", 135, 8)
call("personality 9", 135, 9)
call("fchmodat2", 452, -1, b"x", 0, 0)
call("unknown", 500)
pid = os.fork()
if not pid:
    libc.syscall(157, 3)  # prctl(PR_GET_DUMPABLE)
    os._exit(0)
print("prctl", os.waitpid(pid, 0)[1])
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("seccomp")) as made:
        yield made


def run(box: Engine, profile: dict[str, object], **request: object) -> dict[str, str]:
    result = box.run(
        PYTHON, "-I", "-S", "-c", CALLS, mounts=with_python(), seccomp_profile=json.dumps(profile), **request
    )
    assert result.code == 0, result.errors
    return dict(line.rsplit(" ", 1) for line in result.lines)


def rule(*names: str, action: str, **more: object) -> dict[str, object]:
    return {"names": names, "action": f"SCMP_ACT_{action}", **more}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of calls are of x86_64")
def test_each_part_of_a_profile_has_its_effect(box: Engine) -> None:
    def number(value: int, operator: str = "EQ") -> dict[str, object]:
        return {"index": 0, "value": value, "op": f"SCMP_CMP_{operator}"}

    rules = [
        rule("getpriority", action="ERRNO", errnoRet=61),
        rule("personality", action="ERRNO", args=[number(8), number(9)]),  # either of them
        rule("fchmodat2", "no_such_call", action="ERRNO", errnoRet=22),
        rule("prctl", action="KILL_PROCESS", args=[number(3)]),
    ]
    assert run(box, {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}) == {
        "getpriority": "ENODATA",
        "personality 0": "ok",
        "personality 8": "EPERM",
        "personality 9": "EPERM",
        "fchmodat2": "EINVAL",
        "unknown": "ENOSYS",  # the kernel's own
        "prctl": "31",  # SIGSYS
    }
    conditional = [
        rule("getpriority", action="ERRNO", errnoRet=61, includes={"caps": ["CAP_NET_ADMIN"]}),
        rule("personality", action="TRAP", excludes={"caps": ["CAP_NET_RAW"]}),
        rule("fchmodat2", action="LOG", includes={"minKernel": "4.0"}),
        rule("prctl", action="KILL", includes={"arches": ["arm64"]}),
    ]
    found = run(box, {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": conditional}, cap_add=("NET_ADMIN",))
    assert (found["getpriority"], found["personality 8"]) == ("ENODATA", "ok")
    assert found["fchmodat2"] in ("EBADF", "ENOSYS")  # Linux 6.6 has it
    assert found["prctl"] == "0"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="int 0x80 is of x86")
def test_a_profile_covers_the_architectures_that_it_names(box: Engine) -> None:
    """Through int 0x80 the numbers of i386 count. A filter that does not know them kills."""
    text = """
import ctypes, mmap
code = bytes.fromhex("53" "b860000000" "31db" "31c9" "cd80" "5b" "c3")  # getpriority(0, 0): 96
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
"""
    plain = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [rule("getpriority", action="ERRNO", errnoRet=61)],
    }
    named = {
        **plain,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    }

    def look(profile: dict[str, object]) -> tuple[int, list[str]]:
        words = (PYTHON, "-I", "-S", "-c", text)
        result = box.run(*words, mounts=with_python(), seccomp_profile=json.dumps(profile))
        return result.code, result.lines

    assert look(named) == (0, ["-61"])
    assert look(plain)[0] == 128 + 31


def test_a_refusing_profile_says_enosys_to_what_is_newer_than_it() -> None:
    """A C library falls back after ENOSYS, and gives up after EPERM."""
    refusing, flags = seccomp_compile.compile_oci(
        {"defaultAction": "SCMP_ACT_ERRNO", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    )
    allowing, none = seccomp_compile.compile_oci({"defaultAction": "SCMP_ACT_ALLOW"})
    assert (flags, none) == (2, 0)
    assert len(refusing) - len(allowing) == 4 * 8
    for wrong in ({"defaultAction": "SCMP_ACT_NOTIFY"}, {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["x"]}):
        with pytest.raises(ValueError, match=r"SCMP_ACT_NOTIFY|'x'"):
            seccomp_compile.compile_oci(wrong)


def test_flags_of_a_profile_are_given_to_the_kernel(box: Engine) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
    }
    name = box.start("sleep 1000", seccomp_profile=json.dumps(profile))
    assert box.config(name)["annotations"]["stead.seccomp.flags"] == "3"
    assert box.exec(name, "grep ^Seccomp: /proc/self/status").text == "Seccomp:\t2\n"
    box.runtime.remove_container(name)
    # what the kernel does not know it refuses, so that they did arrive there
    with pytest.raises(OSError, match="seccomp"):
        seccomp.install(seccomp_compile.compile_oci({"defaultAction": "SCMP_ACT_ALLOW"})[0], 1 << 20)


def test_a_filter_is_compiled_once_for_each_profile_and_set_of_capabilities(box: Engine) -> None:
    directory = box.paths.run / "seccomp"
    profile = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 7})
    before = set(os.listdir(directory)) if directory.exists() else set()
    box.run("true", seccomp_profile=profile)
    (made,) = set(os.listdir(directory)) - before
    stamp = os.stat(directory / made).st_mtime_ns
    box.run("true", seccomp_profile=profile)
    assert os.stat(directory / made).st_mtime_ns == stamp
    box.run("true", seccomp_profile=profile, cap_drop=("ALL",))
    assert len(set(os.listdir(directory)) - before) == 2


def test_a_profile_that_cannot_be_compiled_is_a_fault_of_that_container(box: Engine) -> None:
    with pytest.raises(Fault, match="its profile: unknown action 'x'"):
        box.start("true", seccomp_profile='{"defaultAction": "X"}')
