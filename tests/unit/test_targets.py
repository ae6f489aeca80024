from __future__ import annotations

from typing import Any

import pytest

from runtime.shim.targets import Target, final, is_whole, read_hosts, statuses, target, words

HOSTS = read_hosts("127.0.0.1\tlocalhost\n10.88.0.2 web web.local # us\n\n10.88.0.3 db\n10.88.0.9 db\n")


@pytest.mark.parametrize(
    ("probe", "address", "port"),
    [
        ({"tcp": ":80"}, "127.0.0.1", 80),
        ({"tcp": "localhost:80"}, "127.0.0.1", 80),
        ({"tcp": "10.0.0.1:80"}, "10.0.0.1", 80),
        ({"tcp": "[::1]:80"}, "::1", 80),
        ({"tcp": "db:5432"}, "10.88.0.3", 5432),
        ({"http": "http://:8080/health"}, "127.0.0.1", 8080),
        ({"http": "http:///health"}, "127.0.0.1", 80),
        ({"http": "http://web.local/"}, "10.88.0.2", 80),
        ({"http": "https://[::1]/"}, "::1", 443),
    ],
)
def test_probes_say_where_to_connect(probe: dict[str, Any], address: str, port: int) -> None:
    found = target(probe, HOSTS)
    assert (found.address, found.port) == (address, port)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://web", "web"),
        ("https://:8443/up", "127.0.0.1"),
        ("https://[::1]:8443/up", "::1"),
        ("https://[::1]/up", "::1"),
    ],
)
def test_a_certificate_is_asked_for_by_name_without_the_port(url: str, name: str) -> None:
    assert target({"http": url}, HOSTS).tls == name


def test_an_http_request_has_these_bytes() -> None:
    found = target({"http": "http://web:8080/health?x=1"}, HOSTS)
    assert found.request == (
        b"GET /health?x=1 HTTP/1.1\r\nHost: web:8080\r\nUser-Agent: stead-probe\r\nAccept: */*\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert found.tls == ""
    assert target({"http": "https://web:8443"}, HOSTS).tls == "web"
    assert target({"http": "http://:80"}, HOSTS).request.startswith(
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n"
    )


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"tcp": "example.org:80"}, "neither an IP address nor"),
        ({"tcp": "localhost"}, "no port"),
        ({"http": "ftp://web/"}, "neither http"),
        ({"tcp": ":http"}, "invalid literal"),
        ({"http": "http://:99999/"}, "ports are 1 to 65535"),
    ],
)
def test_what_cannot_be_probed_is_named(probe: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target(probe, HOSTS)


def test_commands() -> None:
    assert words({"exec": ("a", "b")}) == ["a", "b"]
    assert words({"shell": "a && b"}) == ["/bin/sh", "-c", "a && b"]
    assert words({"tcp": ":1"}) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.0 302 Found\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n", False),
        (b"HTTP/1.1 200\r\n", True),
        (b"HTTP/1.0 200\n\n", True),
        (b"HTTP/1.1  200 OK\n", True),
        (b"HTTP/1.1 2000 OK\r\n", False),
        (b"HTTP/1.1\n200 OK\n", False),
        (b"HTTP/1.1 \r\n\r\n", False),
        (b"220 smtp ready", False),
        (b"", False),
    ],
)
def test_statuses_of_200_to_399_are_healthy(answer: bytes, expected: bool) -> None:
    assert Target("127.0.0.1", 80).is_well(answer) is expected


@pytest.mark.parametrize("line", [b"\r\n", b"\n"])
@pytest.mark.parametrize("blank", [b"\r\n", b"\n"])
def test_a_head_ends_with_an_empty_line_however_lines_end(line: bytes, blank: bytes) -> None:
    early = b"HTTP/1.1 100 Continue" + line + blank
    head = b"HTTP/1.0 200 OK" + line + b"X: 1," + line + b" 2" + line
    for answer in (head, early + head, early + early + head):
        assert not is_whole(answer)
        assert is_whole(answer + blank)
        assert is_whole(answer + blank + b"body" + line + blank)
        assert final(answer + blank) == head + blank
    assert not is_whole(early)
    assert is_whole(b"HTTP/1.1 101 Switching Protocols" + line + blank)


def test_the_statuses_that_are_well_can_be_said() -> None:
    found = Target("127.0.0.1", 80, statuses=statuses("200-299,401"))
    well = [code for code in range(100, 600) if found.is_well(b"HTTP/1.1 %d x\r\n" % code)]
    assert well == [*range(200, 300), 401]


def test_a_request_has_the_method_and_the_headers_that_were_asked_for() -> None:
    headers = [["Host", "shop.example"], ["X-Key", "1"], ["accept", "text/plain"]]
    found = target({"http": "http://:80/up", "method": "POST", "headers": headers}, {})
    assert found.request == (
        b"POST /up HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: stead-probe\r\naccept: text/plain\r\n"
        b"X-Key: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
