"""What a process may give to another: asked of the kernel, or known from before."""

from __future__ import annotations

import pytest

from runtime.linux import capabilities

NAMES = ("CAP_CHOWN", "CAP_KILL", "CAP_SYS_RESOURCE", "CAP_CHECKPOINT_RESTORE")


def test_what_is_remembered_is_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_remembered", None)
    every, some = capabilities.given(capabilities.NAMES), capabilities.given(NAMES)
    capabilities.remember()
    assert capabilities.given(capabilities.NAMES) == every == capabilities.mask(capabilities.bounding())
    assert capabilities.given(NAMES) == some == every & capabilities.mask(NAMES)


def test_what_was_remembered_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_remembered", capabilities.mask(["CAP_KILL"]))
    assert capabilities.given(NAMES) == capabilities.mask(["CAP_KILL"])
