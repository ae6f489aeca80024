"""Decisions: which proxy the environment asks for, as the tools written in Go read it.

Source: golang.org/x/net/http/httpproxy, which docker, skopeo and podman use: HTTP_PROXY, HTTPS_PROXY,
NO_PROXY, each in upper case before lower case.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping


def is_loopback(host: str) -> bool:
    """Whether a host (without port) is this machine, as Docker has it: its traffic needs no TLS."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def proxy_for(scheme: str, host: str, port: int, environment: Mapping[str, str]) -> str:
    """The URL of the proxy for a request; empty: none. Loopback hosts are always asked directly."""
    proxy = _variable(environment, f"{scheme}_proxy")
    if not proxy or is_loopback(host) or is_excepted(host, port, _variable(environment, "no_proxy")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name) or ""


def is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY names the host: by name (with all below it), `.suffix` or `*.suffix` (what is below
    only), address, network (CIDR), each with an optional port, or `*`.
    """
    return any(_matches(host.lower().strip("[]").rstrip("."), port, item) for item in no_proxy.split(","))


def _matches(host: str, port: int, text: str) -> bool:
    pattern = text.strip().lower()
    if not pattern:
        return False
    if pattern == "*":
        return True
    if "/" in pattern:
        return _is_within(host, pattern)
    pattern, wanted_port = _split_port(pattern)
    if wanted_port and wanted_port != str(port):
        return False
    try:
        return ipaddress.ip_address(pattern) == ipaddress.ip_address(host)
    except ValueError:
        pass
    if pattern.startswith("*."):
        pattern = pattern[1:]
    if pattern.startswith("."):
        return host.endswith(pattern)
    return host == pattern or host.endswith(f".{pattern}")


def _split_port(pattern: str) -> tuple[str, str]:
    """`host`, `host:80`, `[::1]:80` and `::1`."""
    if pattern.startswith("["):
        inner, _, port = pattern[1:].partition("]")
        return inner, port.removeprefix(":")
    if pattern.count(":") == 1:
        name, _, port = pattern.partition(":")
        return name, port
    return pattern, ""


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
