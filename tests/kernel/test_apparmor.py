"""Containers under an AppArmor profile. Needs root, and a kernel with the module."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime.faults import Fault
from runtime.linux.apparmor import AppArmor
from tests.kernel.engine_box import Engine, engine

MISSING = AppArmor().missing()
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"needs AppArmor: {MISSING}"),
]
#: Nothing but the profile stands in the way of a mount then.
BARE = {"cap_add": ("SYS_ADMIN",), "seccomp_unconfined": True, "unmasked": True}
LOOK = "cat /proc/self/attr/current; mount -t tmpfs x /tmp && echo mounted; id -u"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("apparmor")) as made:
        yield made


def test_programs_run_under_our_profile_which_denies_mounts(box: Engine) -> None:
    result = box.run(LOOK, **BARE)
    assert result.lines == ["stead-default (enforce)", "0"]
    assert "denied" in result.errors.lower()
    name = box.start("sleep 1000")
    assert box.exec(name, "cat /proc/self/attr/current").lines == ["stead-default (enforce)"]
    box.runtime.remove_container(name)


def test_unconfined_and_privileged_have_none(box: Engine) -> None:
    assert box.run(LOOK, apparmor="unconfined", **BARE).lines == ["unconfined", "mounted", "0"]
    assert box.run(LOOK, privileged=True).lines == ["unconfined", "mounted", "0"]


def test_a_profile_that_is_not_loaded_is_named(box: Engine) -> None:
    with pytest.raises(Fault, match="AppArmor profile nope: no such profile is loaded"):
        box.start("true", apparmor="nope")
