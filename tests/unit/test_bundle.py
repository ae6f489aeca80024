"""A request and an image's config become an OCI bundle, by Docker's rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime import bundle
from runtime.bundle import DEFAULT_CAPABILITIES, Setting, User
from runtime.faults import Fault
from runtime.wishes import ContainerRequest, ProbeRequest
from specs.values import ImageRef

REQUEST = ContainerRequest(
    name="shop/web", source="s", identity="i", adjustable="a", facets="{}", image=ImageRef.parse("web")
)
SETTING = Setting(
    id="ab",
    rootfs="/r",
    cgroup="stead.slice/ab",
    netns="/n",
    hostname="web",
    user=User(),
    all_capabilities=(*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
)


def test_an_entrypoint_of_the_users_own_drops_the_images_command() -> None:
    image = {"Entrypoint": ["/entry"], "Cmd": ["serve"]}
    assert bundle.argv(REQUEST, image) == ["/entry", "serve"]
    assert bundle.argv(replace(REQUEST, command=("other",)), image) == ["/entry", "other"]
    assert bundle.argv(replace(REQUEST, entrypoint=("/mine",)), image) == ["/mine"]
    assert bundle.argv(replace(REQUEST, entrypoint=(), command=("x",)), image) == ["x"]
    assert bundle.argv(replace(REQUEST, entrypoint=("",), command=("x",)), image) == ["x"]


def test_nothing_to_run_is_a_fault_that_names_the_container() -> None:
    with pytest.raises(Fault, match="cannot start container shop/web: neither the spec nor the image"):
        bundle.argv(REQUEST, {})


def test_the_users_environment_wins_over_the_images_and_that_over_defaults() -> None:
    request = replace(REQUEST, environment={"B": "user"})
    image = {"Env": ["A=image", "B=image", "PATH=/only", "EMPTY="]}
    found = bundle.environment(request, image, replace(SETTING, user=User(home="/home/u")))
    assert found == {
        "PATH": "/only",
        "HOSTNAME": "web",
        "A": "image",
        "B": "user",
        "EMPTY": "",
        "HOME": "/home/u",
    }


def test_dropping_all_and_adding_one_leaves_that_one() -> None:
    request = replace(REQUEST, cap_drop=("ALL",), cap_add=("net_admin",))
    assert bundle.capabilities(request, SETTING.all_capabilities) == ["CAP_NET_ADMIN"]
    dropped = bundle.capabilities(replace(REQUEST, cap_drop=("CAP_KILL",)), SETTING.all_capabilities)
    assert set(DEFAULT_CAPABILITIES) - set(dropped) == {"CAP_KILL"}
    everything = bundle.capabilities(replace(REQUEST, privileged=True), SETTING.all_capabilities)
    assert tuple(everything) == SETTING.all_capabilities


def test_a_capability_that_this_machine_cannot_give_is_refused_when_asked_for() -> None:
    some = tuple(name for name in DEFAULT_CAPABILITIES if name != "CAP_MKNOD")
    with pytest.raises(Fault, match="cap_add asks for CAP_BPF, CAP_SYS_BOOT, which this"):
        bundle.capabilities(replace(REQUEST, cap_add=("SYS_BOOT", "CAP_BPF", "kill")), some)
    assert bundle.capabilities(REQUEST, some) == list(some)
    assert bundle.capabilities(replace(REQUEST, cap_add=("ALL",), cap_drop=("KILL",)), some) == [
        name for name in some if name != "CAP_KILL"
    ]


def test_paths_of_the_machine_are_masked_beside_those_of_every_one() -> None:
    setting = replace(SETTING, masked=("/sys/devices/system/cpu/cpu0/thermal_throttle",))
    masked = bundle.oci_config(replace(REQUEST, command=("x",)), {}, setting)["linux"]["maskedPaths"]
    assert masked[-1] == setting.masked[0]
    assert set(bundle.MASKED) < set(masked)


def test_another_user_than_root_keeps_only_the_bounding_set() -> None:
    config = bundle.oci_config(
        replace(REQUEST, command=("x",)), {}, replace(SETTING, user=User(uid=1000, gid=1000, groups=(5,)))
    )
    process = config["process"]
    assert process["capabilities"]["bounding"] and not process["capabilities"]["effective"]
    assert process["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [1000, 5], "umask": 0o022}


def test_a_mount_of_the_user_takes_the_place_of_a_default_one() -> None:
    mine = {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}
    config = bundle.oci_config(replace(REQUEST, command=("x",)), {}, replace(SETTING, mounts=(mine,)))
    assert [mount for mount in config["mounts"] if mount["destination"] == "/dev/shm"] == [mine]


def test_parents_are_mounted_before_what_lies_under_them() -> None:
    deep = [{"destination": path, "type": "bind", "source": path} for path in ("/a/b/c", "/a", "/a/b")]
    config = bundle.oci_config(replace(REQUEST, command=("x",)), {}, replace(SETTING, mounts=tuple(deep)))
    order = [mount["destination"] for mount in config["mounts"]]
    assert order.index("/a") < order.index("/a/b") < order.index("/a/b/c")
    assert order.index("/dev") < order.index("/dev/pts")


def test_host_modes_leave_out_their_namespaces() -> None:
    request = replace(REQUEST, command=("x",), pid_mode="host", ipc_mode="host", uts_mode="host")
    config = bundle.oci_config(request, {}, replace(SETTING, netns=None))
    assert [item["type"] for item in config["linux"]["namespaces"]] == ["mount", "cgroup"]
    shm = next(mount for mount in config["mounts"] if mount["destination"] == "/dev/shm")
    assert (shm["type"], shm["source"]) == ("bind", "/dev/shm")


def test_a_privileged_container_sees_what_is_masked_for_others() -> None:
    plain = bundle.oci_config(replace(REQUEST, command=("x",)), {}, SETTING)["linux"]
    open_ = bundle.oci_config(replace(REQUEST, command=("x",), privileged=True), {}, SETTING)["linux"]
    assert "/proc/kcore" in plain["maskedPaths"] and open_["maskedPaths"] == []
    assert plain["resources"]["devices"] == [{"allow": False}]
    assert open_["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_the_images_healthcheck_holds_unless_the_spec_has_one() -> None:
    second = 1_000_000_000
    image = {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 2 * second, "Retries": 5}}
    found = bundle.probe(REQUEST, image)
    assert found == ProbeRequest(shell="true", interval=2.0, retries=5)
    mine = ProbeRequest(tcp=":80")
    assert bundle.probe(replace(REQUEST, probe=mine), image) == mine
    assert bundle.probe(replace(REQUEST, probe=ProbeRequest(disabled=True)), image) is None
    assert bundle.probe(REQUEST, {"Healthcheck": {"Test": ["NONE"]}}) is None


def test_the_spec_may_change_parts_of_the_images_healthcheck() -> None:
    image = {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000, "Retries": 5}}
    mine = ProbeRequest(retries=1, on_failure="none", given=("retries", "on_failure"))
    changed = bundle.probe(replace(REQUEST, probe=mine), image)
    assert changed == ProbeRequest(shell="true", interval=2.0, retries=1, on_failure="none")
    with pytest.raises(Fault, match="its healthcheck has no test, and the image has none either"):
        bundle.probe(replace(REQUEST, probe=mine), {})
