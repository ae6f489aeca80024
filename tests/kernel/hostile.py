"""What hostile programs in containers have in common: they run in this interpreter, for a few seconds, and
print each thing that they got hold of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.kernel.engine_box import PYTHON, Engine, Result, with_python
from tests.kernel.shim_box import until

#: Seconds after which an attacker gives up by itself, should nobody stop it.
LONGEST = 20.0

#: Before each: the clock, and a word that says that the attack is under way.
PREAMBLE = f"""
import ctypes, errno, os, stat, sys, time
libc = ctypes.CDLL(None, use_errno=True)
end = time.monotonic() + {LONGEST}
def exchange(one, other):  # renameat2(2), RENAME_EXCHANGE
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")
def won(*words):
    print("WON", *words, flush=True)
print("begun", flush=True)
"""


def program(text: str) -> tuple[str, ...]:
    return (PYTHON, "-I", "-S", "-c", PREAMBLE + text)


@contextmanager
def attacker(box: Engine, text: str, **request: object) -> Iterator[str]:
    """The name of a container in which the attack runs until the end of the block."""
    mounts = (*with_python(), *request.pop("mounts", ()))  # type: ignore[misc]
    name = box.start(*program(text), mounts=mounts, **request)
    try:
        until(lambda: "begun" in box.output(name))
        yield name
    finally:
        box.runtime.remove_container(name)


def attack(box: Engine, text: str, **request: object) -> Result:
    """To its end."""
    mounts = (*with_python(), *request.pop("mounts", ()))  # type: ignore[misc]
    result = box.run(*program(text), mounts=mounts, **request)
    assert "begun" in result.text, result.errors
    return result


def gains(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("WON")]
