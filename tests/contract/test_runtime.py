"""One suite over both runtimes, so that what the planner is proven on is what the machine does.

LocalRuntime runs a real busybox in its own state directories; it needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.backups.request import BackupRequest
from runtime.build.request import BuildRequest
from runtime.faults import Fault
from runtime.images.garbage import Limits
from runtime.interface import Runtime
from runtime.local import LocalRuntime
from runtime.observations import ObservedContainer, Phase, retired
from runtime.paths import Paths
from runtime.wishes import Attachment, ContainerRequest, LimitsRequest, NetworkRequest, VolumeRequest
from specs.values import ImageRef, Keep, MountPoint, parse_ports
from tests.fake_runtime import FakeRuntime
from tests.ports import free_port

BUSYBOX = ImageRef.parse("contract/busybox:1")
DEADLINE = 30.0


def rootfs(base: Path) -> Path:
    """A root filesystem with nothing but a static busybox."""
    binary = shutil.which("busybox")
    if binary is None or subprocess.run(["ldd", binary], capture_output=True).returncode == 0:
        pytest.skip("needs Debian's busybox-static")
    root = base / "rootfs"
    for name in ("bin", "tmp", "etc", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy2(binary, root / "bin" / "busybox")
    for name in ("sh", "sleep", "true"):
        (root / "bin" / name).symlink_to("busybox")
    return root


def local(base: Path) -> LocalRuntime:
    return LocalRuntime(Paths(base / "root", base / "run"), pool="10.213.0.0/16")


@pytest.fixture(params=["fake", pytest.param("local", marks=pytest.mark.root)])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    if request.param == "fake":
        yield FakeRuntime()
        return
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = local(tmp_path)
    try:
        yield made
    finally:
        for name in made.observe().containers:
            made.remove_container(name)
        for name in made.observe().networks:
            made.remove_network(name)
        made.close()


@pytest.fixture
def imported(runtime: Runtime, tmp_path: Path) -> Runtime:
    runtime.import_image(rootfs(tmp_path), BUSYBOX)
    return runtime


def want(name: str = "s/a", **more: Any) -> ContainerRequest:
    standard: dict[str, Any] = {
        "name": name,
        "source": "s",
        "identity": "i1",
        "adjustable": "a1",
        "facets": '{"x": 1}',
        "image": BUSYBOX,
        "command": ("sleep", "3600"),
        "network_mode": "none",
        "stop_grace_period": 0.1,
    }
    return ContainerRequest(**{**standard, **more})


def on(network: str, **more: Any) -> dict[str, Any]:
    return {"network_mode": "bridge", "networks": (Attachment(network, **more),)}


def net(name: str = "s/n", **more: Any) -> NetworkRequest:
    return NetworkRequest(name, "s", "f1", **more)


def seen(runtime: Runtime, name: str = "s/a") -> ObservedContainer:
    return runtime.observe().containers[name]


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def code(call: Callable[[], object]) -> str:
    with pytest.raises(Fault) as caught:
        call()
    return caught.value.code


def test_an_empty_machine_has_nothing(runtime: Runtime) -> None:
    observed = runtime.observe()
    assert not observed.images and not observed.networks
    assert not observed.containers and not observed.volumes and not observed.leftovers


def test_an_imported_image_is_seen_by_its_canonical_name(imported: Runtime) -> None:
    image = imported.observe().images[str(BUSYBOX)]
    assert image.names == (str(BUSYBOX),)
    imported.remove_image(str(BUSYBOX))
    assert not imported.observe().images
    assert code(lambda: imported.remove_image(str(BUSYBOX))) == "image-not-found"


def test_a_container_lives_from_created_to_gone(imported: Runtime) -> None:
    id = imported.create_container(want())
    created = seen(imported)
    assert (created.id, created.phase, created.pid) == (id, Phase.CREATED, 0)
    assert (created.source, created.identity, created.adjustable) == ("s", "i1", "a1")
    assert created.facets == '{"x": 1}' and created.image == str(BUSYBOX)
    assert created.image_id == imported.observe().images[str(BUSYBOX)].id
    imported.start_container("s/a")
    running = seen(imported)
    assert running.phase is Phase.RUNNING and running.pid > 0 and running.id == id
    assert running.defects == ()
    imported.stop_container("s/a")
    stopped = seen(imported)
    assert stopped.phase is Phase.STOPPED and stopped.pid == 0
    imported.start_container("s/a")
    assert seen(imported).phase is Phase.RUNNING
    imported.remove_container("s/a")
    assert imported.observe().containers == {}
    assert imported.observe().leftovers == ()


def test_repeating_an_action_is_harmless(imported: Runtime) -> None:
    for _ in range(2):
        imported.create_network(net())
        imported.create_volume(VolumeRequest("s/v", "s", "f1"))
    imported.create_container(want(**on("s/n")))
    imported.start_container("s/a")
    pid = seen(imported).pid
    imported.start_container("s/a")
    assert seen(imported).pid == pid
    for _ in range(2):
        imported.repair_network("s/n")
        imported.repair_container("s/a")
        imported.repair_firewall()
        imported.sweep()
    assert seen(imported).pid == pid
    for _ in range(2):
        imported.stop_container("s/a")
    for _ in range(2):
        imported.remove_container("s/a")
        imported.remove_network("s/n")
        imported.remove_volume("s/v")
    observed = imported.observe()
    assert not observed.containers and not observed.networks and not observed.volumes


def test_a_retired_container_runs_on_beside_the_one_that_has_its_name(imported: Runtime) -> None:
    with pytest.raises(Fault) as caught:
        imported.retire_container("s/a")
    assert caught.value.code == "container-not-found"
    id = imported.create_container(want())
    imported.start_container("s/a")
    pid = seen(imported).pid
    for _ in range(2):
        imported.retire_container("s/a")
    old = imported.observe().containers[retired("s/a")]
    assert (old.id, old.pid, old.phase, old.defects) == (id, pid, Phase.RUNNING, ())
    assert imported.create_container(want()) != id
    with pytest.raises(Fault) as caught:
        imported.retire_container("s/a")
    assert caught.value.code == "container-exists"
    imported.remove_container(retired("s/a"), replaced=True)
    assert list(imported.observe().containers) == ["s/a"]


def test_a_name_is_taken_once(imported: Runtime) -> None:
    imported.create_container(want())
    assert code(lambda: imported.create_container(want())) == "container-exists"


def test_what_is_missing_is_named(imported: Runtime) -> None:
    missing = want("s/b", image=ImageRef.parse("contract/none"))
    assert code(lambda: imported.create_container(missing)) == "image-not-found"
    assert code(lambda: imported.create_container(want(**on("s/nowhere")))) == "network-not-found"
    assert code(lambda: imported.start_container("s/none")) == "container-not-found"
    assert code(lambda: imported.stop_container("s/none")) == "container-not-found"
    assert imported.observe().containers == {}


def test_a_network_knows_its_members_and_goes_after_them(imported: Runtime) -> None:
    imported.create_network(net(subnet="10.213.7.0/24"))
    imported.create_container(want(**on("s/n", ipv4_address="10.213.7.9")))
    observed = imported.observe()
    assert observed.networks["s/n"].members == ("s/a",)
    assert observed.networks["s/n"].subnet == "10.213.7.0/24"
    assert observed.networks["s/n"].fingerprint == "f1"
    assert observed.containers["s/a"].networks == (("s/n", "10.213.7.9"),)
    taken = want("s/b", **on("s/n", ipv4_address="10.213.7.9"))
    assert code(lambda: imported.create_container(taken)) == "address-taken"
    assert code(lambda: imported.remove_network("s/n")) == "network-in-use"
    imported.remove_container("s/a")
    imported.remove_network("s/n")
    assert not imported.observe().networks


def test_new_labels_are_written_down_while_things_are_in_use(imported: Runtime) -> None:
    imported.create_network(NetworkRequest("s/n", "s", "f1", subnet="10.213.7.0/24"))
    imported.create_volume(VolumeRequest("s/v", "s", "f1"))
    mounts = (MountPoint("volume", "s/v", "/data"),)
    imported.create_container(want(mounts=mounts, **on("s/n")))
    imported.create_network(NetworkRequest("s/n", "s", "f1+x", subnet="10.213.7.0/24", labels={"a": "1"}))
    imported.create_volume(VolumeRequest("s/v", "s", "f2", labels={"b": "2"}))
    observed = imported.observe()
    network, volume = observed.networks["s/n"], observed.volumes["s/v"]
    assert (network.fingerprint, network.labels, network.members) == ("f1+x", {"a": "1"}, ("s/a",))
    assert (volume.fingerprint, volume.labels, volume.users) == ("f2", {"b": "2"}, ("s/a",))


def test_a_look_at_networks_alone_says_of_them_what_a_whole_look_says(imported: Runtime) -> None:
    imported.create_network(NetworkRequest("s/n", "s", "f", subnet="10.213.8.0/24"))
    imported.create_container(want(**on("s/n")))
    imported.start_container("s/a")
    whole = imported.observe()
    end = imported.watch_networks(lambda: None)
    try:
        assert imported.observe_networks(whole) == whole
        assert imported.observe_networks(whole) == whole, "again, when it knows what it may pass over"
        imported.create_network(NetworkRequest("s/m", "s", "f", subnet="10.213.9.0/24"))
        assert imported.observe_networks(whole).networks == imported.observe().networks
    finally:
        end()


def test_an_anonymous_volume_follows_its_container_by_name(imported: Runtime) -> None:
    mounts = (MountPoint("volume", "", "/data", labels=(("a", "b"),)), MountPoint("volume", "", "/more"))
    imported.create_container(want(mounts=mounts))
    before = imported.observe().volumes
    assert len(before) == 2 and all(v.anonymous and v.users == ("s/a",) for v in before.values())
    imported.remove_container("s/a", replaced=True)
    between = imported.observe().volumes
    assert between.keys() == before.keys()
    assert {(v.users, v.container) for v in between.values()} == {((), "s/a")}
    imported.create_container(want(mounts=mounts[:1]))
    after = imported.observe().volumes
    (kept,) = (name for name, v in after.items() if v.container == "s/a")
    assert after.keys() == before.keys() and after[kept].labels == {"a": "b"}, "the same one at the same path"
    (left,) = after.keys() - {kept}
    assert (after[left].users, after[left].container) == ((), "")
    imported.remove_volume(left)
    imported.remove_container("s/a", volumes=False)
    assert imported.observe().volumes[kept].users == ()
    imported.remove_volume(kept)
    imported.create_container(want(mounts=mounts))
    imported.remove_container("s/a")
    assert not imported.observe().volumes


def test_an_image_that_a_container_mounts_must_be_there_and_is_known(imported: Runtime) -> None:
    mounts = (MountPoint("image", str(BUSYBOX), "/tools", True),)
    missing = (MountPoint("image", "docker.io/library/gone:1", "/tools", True),)
    assert code(lambda: imported.create_container(want(mounts=missing))) == "image-not-found"
    imported.create_container(want(mounts=mounts))
    image = imported.observe().images[str(BUSYBOX)]
    assert seen(imported).mounted_images == ((str(BUSYBOX), image.id),)
    imported.remove_container("s/a")


def test_options_and_keep_of_a_volume_are_written_down(imported: Runtime) -> None:
    options = {"type": "tmpfs", "o": "size=1m"}
    imported.create_volume(VolumeRequest("s/v", "s", "f1", options=options, keep=True))
    volume = imported.observe().volumes["s/v"]
    assert (dict(volume.options), volume.keep, volume.anonymous) == (options, True, False)
    assert code(lambda: imported.remove_volume("s/v")) == "volume-kept"
    imported.create_volume(VolumeRequest("s/v", "s", "f2", options=options))
    imported.remove_volume("s/v")


def test_an_orphan_is_written_down_once_until_it_is_declared_again(imported: Runtime) -> None:
    request = VolumeRequest("s/v", "s", "f1", prune=60.0)
    imported.create_volume(request)
    assert imported.observe().volumes["s/v"].orphaned_at == 0.0
    imported.orphan_volume("s/v")
    first = imported.observe().volumes["s/v"]
    assert first.orphaned_at > 0.0 and first.prune == 60.0
    imported.orphan_volume("s/v")
    assert imported.observe().volumes["s/v"].orphaned_at == first.orphaned_at
    imported.create_volume(request)
    assert imported.observe().volumes["s/v"].orphaned_at == 0.0
    imported.orphan_volume("s/none")


def test_a_volume_is_backed_up_and_the_backup_drilled(imported: Runtime, tmp_path: Path) -> None:
    into = str(tmp_path / "to")
    assert code(lambda: imported.backup_volume(BackupRequest("s/v", into))) == "volume-not-found"
    imported.create_volume(VolumeRequest("s/v", "s", "f1"))
    assert code(lambda: imported.drill_backup("s/v", into)) == "backup-invalid"
    made = imported.backup_volume(BackupRequest("s/v", into, keep=Keep(last=1)))
    assert made.path.startswith(into) and made.bytes > 0 and made.entries > 0
    done = imported.drill_backup("s/v", into)
    assert (done.path, done.at) == (made.path, made.at)


def test_a_volume_knows_its_users_and_goes_after_them(imported: Runtime) -> None:
    imported.create_volume(VolumeRequest("s/v", "s", "f1"))
    imported.create_container(want(mounts=(MountPoint("volume", "s/v", "/data"),)))
    volume = imported.observe().volumes["s/v"]
    assert (volume.users, volume.source, volume.fingerprint) == (("s/a",), "s", "f1")
    assert code(lambda: imported.remove_volume("s/v")) == "volume-in-use"
    imported.remove_container("s/a")
    imported.remove_volume("s/v")
    assert not imported.observe().volumes


def test_an_image_in_use_stays(imported: Runtime) -> None:
    imported.create_container(want())
    assert code(lambda: imported.remove_image(str(BUSYBOX))) == "image-in-use"
    assert str(BUSYBOX) in imported.observe().images


def test_a_missing_bind_source_is_told_and_cured_by_making_it(imported: Runtime, tmp_path: Path) -> None:
    source = tmp_path / "later"
    imported.create_container(want(mounts=(MountPoint("bind", str(source), "/data"),)))
    assert code(lambda: imported.start_container("s/a")) == "mount-source-missing"
    assert seen(imported).phase is not Phase.RUNNING
    source.mkdir()
    imported.start_container("s/a")
    assert seen(imported).phase is Phase.RUNNING


def test_adjusting_does_not_touch_the_process(imported: Runtime) -> None:
    imported.create_container(want())
    imported.start_container("s/a")
    before = seen(imported)
    request = want(adjustable="a2", facets='{"x": 2}', limits=LimitsRequest(memory=64 << 20))
    imported.adjust_container(request)
    after = seen(imported)
    assert (after.pid, after.id, after.phase) == (before.pid, before.id, Phase.RUNNING)
    assert (after.identity, after.adjustable, after.facets) == ("i1", "a2", '{"x": 2}')
    assert after.defects == ()
    missing = replace(request, name="s/none")
    assert code(lambda: imported.adjust_container(missing)) == "container-not-found"


def on_both(networks: tuple[Attachment, ...], identity: str) -> ContainerRequest:
    facets = json.dumps({"identity": {"image": "x", "networks": [one.network for one in networks]}})
    return want(network_mode="bridge", networks=networks, identity=identity, facets=facets)


def test_networks_change_in_place(imported: Runtime) -> None:
    for name in ("s/n", "s/m"):
        imported.create_network(net(name))
    one, other = Attachment("s/n"), Attachment("s/m")
    imported.create_container(on_both((one,), "i1"))
    imported.start_container("s/a")
    before = seen(imported)
    address = dict(before.networks)["s/n"]
    imported.adjust_container(on_both((one, other), "i2"))
    joined = seen(imported)
    assert (joined.pid, joined.identity, joined.defects) == (before.pid, "i2", ())
    assert dict(joined.networks)["s/n"] == address and set(dict(joined.networks)) == {"s/n", "s/m"}
    imported.adjust_container(on_both((other,), "i3"))
    left = seen(imported)
    assert (left.pid, left.identity, left.defects) == (before.pid, "i3", ())
    assert left.networks == joined.networks[1:]
    imported.remove_network("s/n")
    assert set(imported.observe().networks) == {"s/m"}
    gone = (other, Attachment("s/none"))
    assert code(lambda: imported.adjust_container(on_both(gone, "i4"))) == "network-not-found"
    assert seen(imported).networks == left.networks


def test_a_port_goes_to_one_container(imported: Runtime) -> None:
    port = free_port()
    imported.create_network(net())
    ports = parse_ports(f"{port}:80")
    imported.create_container(want("s/a", ports=ports, **on("s/n")))
    imported.create_container(want("s/b", ports=ports, **on("s/n")))
    imported.start_container("s/a")
    assert code(lambda: imported.start_container("s/b")) == "port-taken"
    assert seen(imported).ports == ports
    imported.remove_container("s/a")
    imported.start_container("s/b")
    assert seen(imported, "s/b").phase is Phase.RUNNING


def test_samples_are_of_what_runs(imported: Runtime) -> None:
    imported.create_container(want("s/a"))
    imported.create_container(want("s/b"))
    imported.start_container("s/a")
    samples = imported.sample()
    assert [(s.name, s.image, s.id) for s in samples] == [("s/a", str(BUSYBOX), seen(imported).id)]


def test_half_made_things_are_seen_and_swept(imported: Runtime) -> None:
    imported.create_container(want())
    if isinstance(imported, FakeRuntime):
        imported.leave("0" * 32)
    else:
        imported.paths.container("0" * 32).mkdir(parents=True)  # type: ignore[attr-defined]
    assert len(imported.observe().leftovers) == 1
    assert len(imported.sweep()) == 1
    assert imported.observe().leftovers == ()
    assert "s/a" in imported.observe().containers


# ---------------------------------------------------------------- images

NOWHERE = ImageRef.parse("127.0.0.1:1/app:1")
APP = ImageRef.parse("localhost/s/app:1")


def recipe(runtime: Runtime, context: Path) -> BuildRequest:
    if isinstance(runtime, FakeRuntime):
        runtime.key_of = lambda request: Path(request.context, "data").read_text()
    context.mkdir(exist_ok=True)
    (context / "data").write_text("one")
    text = b"FROM scratch\nCOPY data /data\n"
    return BuildRequest(context=str(context), dockerfile_text=text, names=(APP,))


def test_a_registry_that_does_not_answer_is_told_as_such(runtime: Runtime) -> None:
    if isinstance(runtime, FakeRuntime):
        runtime.offline = True
    for call in (runtime.look_up_image, runtime.measure_image, runtime.pull_image):
        assert code(lambda call=call: call(NOWHERE)) == "registry-unreachable"
    assert not runtime.observe().images


def test_what_is_built_has_its_name_and_is_known_by_its_inputs(runtime: Runtime, tmp_path: Path) -> None:
    request = recipe(runtime, tmp_path / "context")
    before = runtime.build_inputs(request)
    assert not runtime.observe().images, "looking builds nothing"
    made = runtime.build_image(request)
    image = runtime.observe().images[str(APP)]
    assert image.id == made.image_id and image.digest_of(str(APP)) == "" and not image.broken
    assert runtime.build_inputs(request) == before
    assert runtime.build_image(request).image_id == made.image_id
    (tmp_path / "context" / "data").write_text("two")
    after = runtime.build_inputs(request)
    assert after.key != before.key and after.parts != before.parts
    assert runtime.build_image(request).image_id != made.image_id


def test_a_build_without_its_files_is_told_as_such(runtime: Runtime, tmp_path: Path) -> None:
    request = BuildRequest(context=str(tmp_path), names=(APP,))
    assert code(lambda: runtime.build_inputs(request)) == "request-invalid"
    assert code(lambda: runtime.build_image(request)) == "request-invalid"


def test_images_with_a_name_and_those_of_containers_are_not_collected(imported: Runtime) -> None:
    imported.create_container(want())
    assert imported.collect_images((), Limits()) == ()
    assert list(imported.observe().images) == [str(BUSYBOX)]


def test_an_image_that_is_whole_is_repaired_by_doing_nothing(imported: Runtime) -> None:
    image = imported.observe().images[str(BUSYBOX)]
    assert imported.repair_image(BUSYBOX) == image.id
    assert imported.observe().images[str(BUSYBOX)] == image
