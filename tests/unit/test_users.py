"""Who a container runs as, from the image's own accounts."""

from __future__ import annotations

import pytest

from runtime.bundle import User
from runtime.faults import Fault
from runtime.users import find_user

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbroken line\n"
GROUP = "root:x:0:\nweb:x:33:\nlog:x:4:web,other\naudio:x:29:\n"


@pytest.mark.parametrize(
    ("spec", "extra", "expected"),
    [
        ("", (), User(0, 0, (), "/root")),
        ("web", (), User(33, 33, (4,), "/var/www")),
        ("33", (), User(33, 33, (4,), "/var/www")),
        ("web:audio", (), User(33, 29, (), "/var/www")),
        ("1000", (), User(1000, 0, (), "/")),
        ("1000:1000", ("audio", "7"), User(1000, 1000, (29, 7), "/")),
    ],
)
def test_docker_rules(spec: str, extra: tuple[str, ...], expected: User) -> None:
    assert find_user(spec, extra, PASSWD, GROUP) == expected


@pytest.mark.parametrize("spec", ["nobody", "web:nogroup", "4294967295", "0:99999999999"])
def test_names_that_the_image_does_not_know_are_refused(spec: str) -> None:
    with pytest.raises(Fault) as raised:
        find_user(spec, (), PASSWD, GROUP)
    assert raised.value.code == "request-invalid"


@pytest.mark.parametrize("number", ["-1", "4294967295", "4294967296", "0x0", "+0", ""])
def test_an_account_with_an_id_that_is_none_is_no_account(number: str) -> None:
    """setresuid(2) with -1, which is 4294967295, leaves root what it is."""
    for line in (f"web:x:{number}:33::/:/x\n", f"web:x:33:{number}::/:/x\n"):
        with pytest.raises(Fault, match="web"):
            find_user("web", (), line, "")
    with pytest.raises(Fault, match="log"):
        find_user("0:log", (), "", f"log:x:{number}:\n")


def test_an_image_without_accounts_still_has_numbers() -> None:
    assert find_user("", (), "", "") == User(0, 0, (), "/")
