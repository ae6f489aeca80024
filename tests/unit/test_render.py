"""Everything that a spec can ask for reaches the runtime."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from agent import render
from runtime import wishes
from specs import desired
from specs.values import ImageRef
from tests.other_values import ADJUSTABLE, IDENTITY

IMAGE = desired.DesiredImage(ImageRef.parse("a"))
PLAIN = desired.DesiredContainer("p/c", str(IMAGE.ref))
PARTS: list[tuple[str, Any]] = [
    *(
        ("limits", desired.Limits(**{f.name: 7}))
        for f in fields(desired.Limits)
        if f.name not in ("io", "cpuset")
    ),
    ("limits", desired.Limits(cpuset="0")),
    *(
        ("limits", desired.Limits(io=(desired.IoLimit("8:0", **{f.name: 7}),)))
        for f in fields(desired.IoLimit)
        if f.name != "device"
    ),
    *(("restart", desired.Restart(**{f.name: 7})) for f in fields(desired.Restart)),
    *(("probe", desired.Probe(**{f.name: 7})) for f in fields(desired.Probe)),
    *(("logging", desired.LogLimits(**{f.name: 7})) for f in fields(desired.LogLimits)),
    *(("ulimits", (desired.Ulimit("core", *pair),)) for pair in ((1, 2), (0, 2))),
    ("networks", (desired.Attachment("p/n", aliases=("a",)),)),
    ("networks", (desired.Attachment("p/n", ipv4_address="10.0.0.1"),)),
    ("networks", (desired.Attachment("p/n", mac_address="02:00:00:00:00:01"),)),
    ("devices", (desired.Device("/dev/a", "/dev/b", "r"),)),
]


def request(container: desired.DesiredContainer) -> wishes.ContainerRequest:
    return render.container_request("s", container, IMAGE)


@pytest.mark.parametrize(("field", "value"), [*IDENTITY.items(), *ADJUSTABLE.items(), *PARTS])
def test_a_field_of_a_container_is_in_the_request(field: str, value: Any) -> None:
    before, after = request(PLAIN), request(replace(PLAIN, **{field: value}))
    assert before != after


def test_different_parts_become_different_requests() -> None:
    made = [request(replace(PLAIN, **{field: value})) for field, value in PARTS]
    assert all(one != other for n, one in enumerate(made) for other in made[:n])


def test_names_source_and_fingerprints_go_along() -> None:
    container = replace(PLAIN, project="p", identity="i", adjustable="a", facets="f")
    made = request(container)
    assert (made.name, made.source, made.project, made.image) == ("p/c", "s", "p", IMAGE.ref)
    assert (made.identity, made.adjustable, made.facets) == ("i", "a", "f")


def test_networks_and_volumes_are_asked_for_whole() -> None:
    network = desired.DesiredNetwork("p/n", "10.0.0.0/24", "10.0.0.9", True, 1400, {"a": "b"}, "f")
    assert render.network_request("s", network) == wishes.NetworkRequest(
        "p/n", "s", "f", "10.0.0.0/24", "10.0.0.9", True, 1400, {"a": "b"}
    )
    volume = desired.DesiredVolume("p/v", {"a": "b"}, "f")
    assert render.volume_request("s", volume) == wishes.VolumeRequest("p/v", "s", "f", {"a": "b"})


BUILDS: dict[str, Any] = {
    "dockerfile": "D",
    "name": "x/D",
    "target": "prod",
    "args": (("A", "1"),),
    "labels": (("a", "1"),),
    "contexts": (("a", "/a"),),
    "extra_hosts": (("db", "10.0.0.1"),),
    "network": "none",
    "no_cache": True,
    "pull": True,
    "secrets": (desired.BuildSecret("id", value="x"),),
    "ssh": (("default", "/run/a"),),
    "shm_size": 7,
    "ulimits": (("nofile", 1, 2),),
    "tags": (ImageRef.parse("b"),),
    "locked": (),
    "cache_from": ("docker.io/library/c:1",),
    "inline_cache": True,
    "inline": "FROM scratch",
    "context": "/elsewhere",
}


def test_every_part_of_a_build_reaches_the_request() -> None:
    assert BUILDS.keys() == {field.name for field in fields(desired.DesiredBuild)}
    plain = desired.DesiredBuild("/src")
    before = render.build_request(replace(IMAGE, build=plain))
    for name, value in BUILDS.items():
        other = replace(IMAGE, build=replace(plain, **{name: value}))
        assert render.build_request(other) != before, name
