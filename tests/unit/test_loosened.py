"""Which walls a container is without is told in one vocabulary, from its recorded request."""

from __future__ import annotations

import json

import pytest

from runtime.loosened import loosened
from runtime.requests import encode_request
from runtime.wishes import ContainerRequest
from specs.values import ImageRef


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, []),
        ({"cap_drop": ("ALL",), "userns": "auto", "read_only": True}, []),
        ({"cap_add": ("CAP_SYS_ADMIN", "net_admin")}, ["cap_add NET_ADMIN", "cap_add SYS_ADMIN"]),
        ({"privileged": True, "pid_mode": "host"}, ["privileged", "pid host"]),
        (
            {"seccomp_unconfined": True, "apparmor": "unconfined", "unmasked": True, "network_mode": "host"},
            ["seccomp unconfined", "apparmor unconfined", "systempaths unconfined", "network host"],
        ),
        ({"apparmor": "other", "seccomp_profile": "{}", "network_mode": "none", "ipc_mode": "shareable"}, []),
    ],
)
def test_each_wall_that_is_down_is_named(asked: dict[str, object], expected: list[str]) -> None:
    request = ContainerRequest("p/c", "s", "i", "a", "{}", ImageRef.parse("a"), **asked)  # type: ignore[arg-type]
    assert loosened(json.loads(encode_request(request))) == expected
