"""Which proxy the environment means, as Go's httpproxy reads it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runtime.images.answers import retry_after
from runtime.images.endpoint import FIRST_DELAY, backoff
from runtime.images.proxies import is_excepted, proxy_for


@pytest.mark.parametrize(
    ("no_proxy", "host", "excepted"),
    [
        ("example.com", "example.com", True),
        ("example.com", "registry.example.com", True),
        ("example.com", "notexample.com", False),
        (".example.com", "registry.example.com", True),
        (".example.com", "example.com", False),
        ("*.example.com", "registry.example.com", True),
        ("*.example.com", "example.com", False),
        ("*", "anything", True),
        ("", "anything", False),
        (" a.example , b.example ", "b.example", True),
        ("Example.COM", "EXAMPLE.com", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "host.example", False),
        ("fd00::/8", "[fd00::1]", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("::ffff", "[::ffff]", True),
        ("example.com:5000", "example.com", True),
        ("example.com:5001", "example.com", False),
        ("[fd00::1]:5000", "fd00::1", True),
        ("[fd00::1]:5001", "fd00::1", False),
        ("10.0.0.0/99", "10.1.2.3", False),
    ],
)
def test_no_proxy_names_hosts_suffixes_and_networks(no_proxy: str, host: str, excepted: bool) -> None:
    assert is_excepted(host, 5000, no_proxy) is excepted


def test_the_proxy_is_that_of_the_scheme_and_upper_case_comes_first() -> None:
    environment = {
        "HTTP_PROXY": "http://plain:1",
        "https_proxy": "secure:2",
        "HTTPS_PROXY": "",
        "no_proxy": "inside.example",
        "http_proxy": "http://lower:3",
    }
    assert proxy_for("http", "out.example", 80, environment) == "http://plain:1"
    assert proxy_for("https", "out.example", 443, environment) == "http://secure:2"
    assert proxy_for("https", "inside.example", 443, environment) == ""
    assert proxy_for("https", "out.example", 443, {}) == ""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "x.localhost"])
def test_this_machine_is_asked_directly(host: str) -> None:
    assert proxy_for("http", host, 80, {"HTTP_PROXY": "http://proxy:1"}) == ""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 50, 999_999_999.0),
        ("Thu, 01 Jan 2026 00:01:30 GMT", 90.0),
        ("Thu, 01 Jan 2026 00:01:30 -0000", 90.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
        ("١", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 1, 1, tzinfo=UTC).timestamp()) == seconds


def test_waits_double_and_are_spread() -> None:
    assert [backoff(attempt, 0.5) for attempt in (1, 2, 3)] == [FIRST_DELAY, FIRST_DELAY * 2, FIRST_DELAY * 4]
    assert backoff(1, 0.0) == FIRST_DELAY / 2 and backoff(1, 1.0) == FIRST_DELAY * 1.5
