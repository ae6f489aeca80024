"""How people write images, sizes, times, ports and mounts."""

import subprocess
import sys

import pytest

from specs.values import (
    ByteSize,
    Cpus,
    Digest,
    Duration,
    ImageRef,
    MountPoint,
    PortBinding,
    addresses_meet,
    parse_ports,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("registry.example/team/app:1.0", "registry.example/team/app:1.0", "registry.example/team/app:1.0"),
        ("[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"),
        (f"nginx@sha256:{HEX}", f"docker.io/library/nginx@sha256:{HEX}", f"nginx@sha256:{HEX}"),
        (f"nginx:1@sha256:{HEX}", f"docker.io/library/nginx@sha256:{HEX}", f"nginx@sha256:{HEX}"),
        ("library/a/b", "docker.io/library/a/b:latest", "docker.io/library/a/b:latest"),
    ],
)
def test_an_image_reference_has_one_canonical_form(text: str, canonical: str, familiar: str) -> None:
    ref = ImageRef.parse(text)
    assert str(ref) == canonical
    assert ref.familiar == familiar
    assert ImageRef.parse(canonical) == ref
    assert ImageRef.parse(familiar) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        " nginx",
        "Nginx",
        "a//b",
        "nginx:",
        "nginx:-x",
        "nginx@sha256:12",
        "-bad.example/x",
        HEX,
        "a/b:c:d",
        "x@md5:1",
    ],
)
def test_what_is_no_image_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        ImageRef.parse(text)


def test_a_digest_is_checked() -> None:
    assert str(Digest.parse(f"sha256:{HEX}")) == f"sha256:{HEX}"
    with pytest.raises(ValueError, match="64 lower-case"):
        Digest.parse(f"sha256:{HEX.upper()}")


@pytest.mark.parametrize(
    ("text", "value", "canonical"),
    [
        ("512m", 512 << 20, "512MiB"),
        ("512MB", 512 << 20, "512MiB"),
        ("512MiB", 512 << 20, "512MiB"),
        ("1.5g", 3 << 29, "1536MiB"),
        ("1000", 1000, "1000B"),
        ("0", 0, "0B"),
        ("64kb", 64 << 10, "64KiB"),
        (4096, 4096, "4KiB"),
    ],
)
def test_sizes_are_binary(text: str | int, value: int, canonical: str) -> None:
    assert ByteSize.parse(text) == value
    assert str(ByteSize.parse(text)) == canonical


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1ib", "1mi", "10eb", "9999999p", True])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="cannot read size"):
        ByteSize.parse(text)


@pytest.mark.parametrize(
    ("text", "value", "canonical"),
    [
        ("10s", 10.0, "10s"),
        ("1m30s", 90.0, "1m30s"),
        ("1h5m30s20ms", 3930.02, "1h5m30s20ms"),
        ("1.5s", 1.5, "1s500ms"),
        ("20us", 0.00002, "20us"),
        ("1d", 86400.0, "24h"),
        ("0", 0.0, "0s"),
    ],
)
def test_durations(text: str, value: float, canonical: str) -> None:
    assert Duration.parse(text) == value
    assert str(Duration.parse(text)) == canonical


@pytest.mark.parametrize("text", ["", "10", "s", "1s 2m", "-1s", "1y", "1mm"])
def test_what_is_no_duration_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Duration.parse(text)


def test_cpus() -> None:
    assert Cpus.parse("0.5") == 0.5
    assert str(Cpus.parse(2)) == "2"
    for text in ("", "-1", "500m", "nan", "1e9", "0.001"):
        with pytest.raises(ValueError, match="cannot read cpus"):
            Cpus.parse(text)


def test_ports_with_address_ranges_and_protocol() -> None:
    assert parse_ports("8080:80") == (PortBinding("", 8080, 80, "tcp"),)
    assert parse_ports("127.0.0.1:8000-8001:80-81/udp") == (
        PortBinding("127.0.0.1", 8000, 80, "udp"),
        PortBinding("127.0.0.1", 8001, 81, "udp"),
    )
    assert parse_ports("[::1]:80:81") == (PortBinding("::1", 80, 81, "tcp"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [PortBinding("", 0, 80)]),
        ("0:80", [PortBinding("", 0, 80)]),
        ("80-81/udp", [PortBinding("", 0, 80, "udp"), PortBinding("", 0, 81, "udp")]),
        ("127.0.0.1::80", [PortBinding("127.0.0.1", 0, 80)]),
        ("127.0.0.1:80", [PortBinding("127.0.0.1", 0, 80)]),
        ("[::1]::80/sctp", [PortBinding("::1", 0, 80, "sctp")]),
        ("[::]:80", [PortBinding("::", 0, 80)]),
        ("8000-8010:80", [PortBinding("", 8000, 80, "tcp", 8010)]),
    ],
)
def test_a_port_of_the_host_may_be_left_to_us(text: str, expected: list[PortBinding]) -> None:
    found = parse_ports(text)
    assert list(found) == expected and not any(binding.is_fixed for binding in found)
    assert tuple(again for binding in found for again in parse_ports(str(binding))) == found


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "::1", True),
        ("", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "::1", True),
        ("::", "0.0.0.0", False),
        ("::", "127.0.0.1", False),
        ("0.0.0.0", "::1", False),
        ("127.0.0.1", "127.0.0.2", False),
    ],
)
def test_addresses_of_the_host_meet(one: str, other: str, expected: bool) -> None:
    assert addresses_meet(one, other) is addresses_meet(other, one) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a:b",
        "80:0",
        "65536:80",
        "80-70:80-70",
        "1-2:1-3",
        "1.2.3:80:80",
        "80:80/icmp",
        "::1:80:80",
    ],
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read|random"):
        parse_ports(text)


def test_mounts_in_short_form() -> None:
    assert MountPoint.parse("pgdata:/x:ro") == MountPoint("volume", "pgdata", "/x", read_only=True)
    assert MountPoint.parse("./dir:/x") == MountPoint("bind", "./dir", "/x", create_source=True)
    assert MountPoint.parse("/abs//y/:/x/../z:ro,cached") == MountPoint(
        "bind", "/abs/y", "/z", read_only=True, create_source=True
    )
    assert MountPoint.parse("shop/data:/x:nocopy").nocopy
    assert MountPoint.parse("/a:/b:rslave").propagation == "rslave"
    assert MountPoint.parse("/x//y/") == MountPoint("volume", "", "/x/y"), "an anonymous volume"
    labelled = MountPoint.parse("data:/x:ro,Z")
    assert (labelled.selinux, labelled.read_only) == ("Z", True)
    for text in ("/x", "data:/x:ro,Z", "/a:/b:ro,rslave,z"):
        assert MountPoint.parse(str(MountPoint.parse(text))) == MountPoint.parse(text)


@pytest.mark.parametrize(
    "text", ["x", "a:b", "a:/", ":/x", "a:/x:what", "a:/x:ro:ro", "~/x:/y", "a b:/x", "/a:/b:nocopy"]
)
def test_what_is_no_mount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot"):
        MountPoint.parse(text)


def test_importing_values_is_cheap() -> None:
    code = "import sys, specs.values; print([m for m in ('pydantic', 'yaml', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
