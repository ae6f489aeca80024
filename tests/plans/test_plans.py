"""Golden plans: what is wanted + what exists + memory + now -> the text that users see.

`STEAD_UPDATE_PLANS=1 pytest tests/plans` writes the files anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.observations import PROBE_STOPPED, Defect, Health, Phase
from specs.desired import Desired, Place, Probe, Restart, Update
from specs.values import MountPoint
from tests.builders import container, desired, image, network, volume
from tests.plans import dependencies, hand, images, jobs, rollouts
from tests.plans.scene import Scene, shop

HERE = Path(__file__).parent


def first_light() -> Scene:
    return Scene().want(shop())


def half_way() -> Scene:
    scene = Scene().want(shop()).measured().start("pull image docker.io/library/nginx:latest")
    return scene.do("pull image docker.io/library/postgres:latest").do("create network shop/back")


def nothing_to_do() -> Scene:
    return first_light().converge()


def changed_variable() -> Scene:
    return nothing_to_do().want(shop("green"))


def changed_limit() -> Scene:
    scene = Scene().want(desired("s", container("s/a", memory=64 << 20))).converge()
    return scene.want(desired("s", container("s/a", memory=128 << 20)))


def changed_network() -> Scene:
    scene = nothing_to_do()
    want = shop()
    networks = {"shop/back": network("shop/back", subnet="10.1.0.0/24")}
    return scene.want(Desired(want.source, want.images, networks, want.volumes, want.containers))


def moved_to_another_network() -> Scene:
    """Where the containers go on running."""
    scene = nothing_to_do()
    again = [
        container("shop/db", image="postgres", networks=["shop/new"], volumes={"shop/data": "/data"}, line=3),
        container(
            "shop/web",
            image="nginx",
            env={"COLOR": "blue", "DB_PASSWORD": "blue"},
            networks=["shop/back", "shop/new"],
            ports=["8080:80"],
            after={"shop/db": "started"},
            line=9,
        ),
    ]
    nets = [network("shop/back"), network("shop/new")]
    return scene.want(desired("shop", *nets, volume("shop/data"), *again))


def two_that_swap_their_addresses() -> Scene:
    """Which cannot be done while both run."""

    def pair(first: str, second: str) -> Desired:
        named = {"s/a": first, "s/b": second}
        made = [container(n, networks=["s/n"], addresses={"s/n": a}) for n, a in named.items()]
        return desired("s", network("s/n", subnet="10.1.0.0/24"), *made)

    scene = Scene().want(pair("10.1.0.8", "10.1.0.9")).converge()
    return scene.want(pair("10.1.0.9", "10.1.0.8"))


def last_container_leaves_a_network() -> Scene:
    made = [network("s/a"), network("s/b"), container("s/c", networks=["s/a", "s/b"])]
    scene = Scene().want(desired("s", *made)).converge()
    return scene.want(desired("s", network("s/b"), container("s/c", networks=["s/b"])))


def external_network_that_is_not_there() -> Scene:
    want = desired("s", container("s/a", networks=["lab/net"]))
    return Scene().want(replace(want, external_networks={"lab/net": Place("net.toml", 1)}))


def external_network_of_another_source() -> Scene:
    """It is made first; and whoever is on it keeps it."""
    scene = Scene().want(desired("a", network("a/n")))
    want = desired("b", container("b/c", networks=["a/n"]))
    return scene.want(replace(want, external_networks={"a/n": Place("net.toml", 1)}))


def network_that_another_source_uses_goes() -> Scene:
    return external_network_of_another_source().converge().want(desired("a"))


def changed_labels() -> Scene:
    things = shop().containers.values()
    again = desired("shop", *things, network("shop/back", label="b"), volume("shop/data", label="b"))
    return nothing_to_do().want(again)


def new_image_of_the_same_name() -> Scene:
    scene = nothing_to_do()
    scene.runtime.put_image("nginx", "sha256:0123456789abcdef")
    return scene


def another_platform() -> Scene:
    scene = Scene().want(desired("s", image("nginx", platform="linux/amd64"))).converge()
    scene.runtime.available["docker.io/library/nginx:latest"] = "sha256:arm"
    return scene.want(desired("s", image("nginx", platform="linux/arm64/v8")))


def removed_from_the_specs() -> Scene:
    return nothing_to_do().want(desired("shop"))


def taken_down_with_volumes() -> Scene:
    scene = removed_from_the_specs()
    scene.drop_volumes = frozenset({"shop"})
    return scene


def volume_to_keep_taken_down() -> Scene:
    scene = Scene().want(desired("s", volume("s/kept", keep=True), volume("s/data"))).converge()
    scene.drop_volumes = frozenset({"s"})
    return scene.want(desired("s"))


def options_of_a_volume_that_changed() -> Scene:
    scene = Scene().want(desired("s", volume("s/data"), volume("s/more"))).converge()
    options = {"type": "tmpfs", "o": "size=1m"}
    return scene.want(desired("s", volume("s/data", options=options), volume("s/more", keep=True)))


def external_volume_that_is_not_there() -> Scene:
    user = container("s/a", volumes={"theirs": "/data"})
    want = replace(desired("s", user), externals={"theirs": volume("theirs")})
    return Scene().want(want)


def external_volume_of_another_source() -> Scene:
    user = container("b/a", volumes={"a/data": "/data"})
    want = replace(desired("b", user), externals={"a/data": volume("a/data")})
    return Scene().want(desired("a", volume("a/data"))).want(want)


def replaced_with_an_anonymous_volume(color: str = "green") -> Scene:
    """The volume stays for who comes next."""

    def one(color: str) -> Desired:
        return desired("s", container("s/a", mounts=[MountPoint("volume", "", "/data")], env={"C": color}))

    return Scene().want(one("blue")).converge().want(one(color))


def abandoned_while_it_was_replaced() -> Scene:
    scene = replaced_with_an_anonymous_volume()
    return scene.do("remove container s/a").want(desired("s"))


def newer_image_that_is_mounted() -> Scene:
    mounts = [MountPoint("image", "docker.io/library/nginx:latest", "/www")]
    scene = Scene().want(desired("s", container("s/a", mounts=mounts))).converge()
    scene.runtime.put_image("nginx", "sha256:0123456789abcdef")
    return scene


def rebooted() -> Scene:
    scene = nothing_to_do()
    scene.runtime.reboot()
    return scene


def drifted() -> Scene:
    scene = nothing_to_do()
    scene.runtime.damage("shop/web", Defect("limits", "memory is 1 instead of 2"))
    scene.runtime.damage("shop/db", Defect("netns", "its process is in another network namespace", True))
    scene.runtime.damage("shop/back", Defect("bridge", "its bridge is gone"))
    scene.runtime.damage("firewall", Defect("firewall", "table stead is gone"))
    return scene


def after_a_crash() -> Scene:
    scene = Scene().want(desired("s", container("s/a")))
    scene.runtime.leave("container 1", "container 2", "container 3", "container 4")
    return scene


def failed_pull() -> Scene:
    scene = Scene().want(desired("s", container("s/a"), container("s/b", image="nginx"))).measured()
    return scene.do("pull image docker.io/library/nginx:latest", "registry-unreachable")


def failed_start_and_its_dependents() -> Scene:
    scene = Scene().want(
        desired("s", container("s/a"), container("s/b", after={"s/a": "started"}), container("s/c"))
    )
    scene.measured().do("pull image docker.io/library/busybox:latest")
    for name in "abc":
        scene.do(f"create container s/{name}")
    return scene.do("start container s/a", "port-taken").do("start container s/c")


def waiting_for_health() -> Scene:
    scene = Scene().want(
        desired("s", container("s/db", probe=Probe(tcp=":1")), container("s/web", after={"s/db": "healthy"}))
    )
    return scene.converge()


def unhealthy_dependency() -> Scene:
    scene = waiting_for_health()
    scene.runtime.set_health("s/db", Health.UNHEALTHY)
    return scene


def failed_job() -> Scene:
    job = container("s/job", restart=Restart("no"))
    scene = Scene().want(desired("s", job, container("s/web", after={"s/job": "completed"}))).converge()
    scene.runtime.exit("s/job", 3)
    return scene


def stopped_behind_our_back() -> Scene:
    scene = nothing_to_do()
    scene.runtime.set_phase("shop/web", Phase.STOPPED)
    return scene


def paused_by_hand() -> Scene:
    """It is left alone, also where its spec changed; who waits for it to be started has it started."""
    first = desired("s", container("s/a"), container("s/b", after={"s/a": "started"}))
    scene = Scene().want(first).converge()
    scene.runtime.set_phase("s/a", Phase.PAUSED)
    scene.runtime.set_phase("s/b", Phase.LOST)
    return scene.want(
        desired("s", container("s/a", env={"A": "1"}), container("s/b", after={"s/a": "started"}))
    )


def volume_that_is_backed_up() -> Scene:
    """Its container was stopped for that; the others are started."""
    scene = nothing_to_do()
    scene.runtime.set_phase("shop/web", Phase.STOPPED)
    scene.runtime.set_phase("shop/db", Phase.LOST)
    scene.runtime.held["shop/data"] = "being backed up by process 12"
    return scene


def volume_that_was_undeclared_for_long() -> Scene:
    scene = Scene().want(desired("s", replace(volume("s/data"), prune=30 * 86_400.0)))
    scene.converge().want(desired("s")).converge()
    scene.clock = 31 * 86_400.0
    return scene


def wanted_stopped() -> Scene:
    scene = Scene().want(desired("s", container("s/a"))).converge()
    return scene.want(desired("s", container("s/a", desired="stopped")))


def suspended() -> Scene:
    scene = Scene().want(desired("s", container("s/a"))).converge()
    return scene.want(desired("s", container("s/a", env={"A": "1"}, suspend="debugging")))


def name_of_another_source() -> Scene:
    scene = Scene().want(desired("one", container("x/a"))).converge()
    return scene.want(desired("two", network("x/n"), container("x/a"), container("x/b", networks=["x/n"])))


def same_container_of_another_source() -> Scene:
    """Nothing of it is under way: what runs is not its own."""
    scene = Scene().want(desired("one", container("x/a"))).converge()
    scene.wanted.clear()
    scene.memory = replace(scene.memory, watched={})  # as another process has it
    scene.want(desired("two", container("x/a")))
    scene.plan()
    return scene


def stopped_by_its_probe(on_failure: str = "stop") -> Scene:
    probe = Probe(tcp=":1", on_failure=on_failure)
    scene = Scene().want(desired("s", container("s/a", probe=probe))).converge()
    scene.runtime.set_phase("s/a", Phase.EXITED, error=PROBE_STOPPED)
    return scene


def stopped_by_its_probe_which_stops_no_more() -> Scene:
    return stopped_by_its_probe("restart")


def ports_that_swap() -> Scene:
    scene = Scene().want(desired("s", container("s/a", ports=["1000:1"]), container("s/b", ports=["2000:1"])))
    scene.converge()
    return scene.want(
        desired(
            "s",
            container("s/a", ports=["2000:1"], env={"V": "2"}),
            container("s/b", ports=["1000:1"], env={"V": "2"}),
        )
    )


def side_by_side(color: str) -> Desired:
    want = container("s/web", env={"COLOR": color}, probe=Probe(tcp=":80"))
    return desired("s", replace(want, update=Update(order="start-first")))


def start_first() -> Scene:
    scene = Scene().want(side_by_side("blue")).converge()
    scene.runtime.set_health("s/web", Health.HEALTHY)
    return scene.want(side_by_side("green"))


def start_first_while_the_new_one_is_not_ready() -> Scene:
    return start_first().converge()


def start_first_when_the_new_one_is_ready() -> Scene:
    scene = start_first_while_the_new_one_is_not_ready()
    scene.runtime.set_health("s/web", Health.HEALTHY)
    return scene


def start_first_changed_again_on_its_way() -> Scene:
    return start_first_while_the_new_one_is_not_ready().want(side_by_side("red"))


def start_first_of_what_does_not_run() -> Scene:
    scene = start_first()
    scene.runtime.set_phase("s/web", Phase.STOPPED)
    return scene


def start_first_when_the_old_one_died() -> Scene:
    scene = start_first_while_the_new_one_is_not_ready()
    scene.runtime.set_phase("s/web~old", Phase.LOST)
    return scene


SCENES: list[Callable[[], Scene]] = [
    *dependencies.SCENES,
    *jobs.SCENES,
    first_light,
    half_way,
    nothing_to_do,
    changed_variable,
    changed_limit,
    changed_network,
    moved_to_another_network,
    last_container_leaves_a_network,
    two_that_swap_their_addresses,
    external_network_that_is_not_there,
    external_network_of_another_source,
    network_that_another_source_uses_goes,
    changed_labels,
    another_platform,
    new_image_of_the_same_name,
    removed_from_the_specs,
    taken_down_with_volumes,
    volume_to_keep_taken_down,
    options_of_a_volume_that_changed,
    external_volume_that_is_not_there,
    external_volume_of_another_source,
    replaced_with_an_anonymous_volume,
    abandoned_while_it_was_replaced,
    newer_image_that_is_mounted,
    rebooted,
    drifted,
    after_a_crash,
    failed_pull,
    failed_start_and_its_dependents,
    waiting_for_health,
    unhealthy_dependency,
    failed_job,
    stopped_behind_our_back,
    *hand.SCENES,
    paused_by_hand,
    volume_that_is_backed_up,
    volume_that_was_undeclared_for_long,
    wanted_stopped,
    suspended,
    name_of_another_source,
    same_container_of_another_source,
    stopped_by_its_probe,
    stopped_by_its_probe_which_stops_no_more,
    ports_that_swap,
    start_first,
    start_first_while_the_new_one_is_not_ready,
    start_first_when_the_new_one_is_ready,
    start_first_changed_again_on_its_way,
    start_first_of_what_does_not_run,
    start_first_when_the_old_one_died,
    images.image_that_is_never_pulled,
    images.tag_that_is_due,
    images.tag_that_moved,
    images.registry_that_is_gone_when_a_tag_is_due,
    images.newer_image_that_cannot_be_pulled,
    images.new_container_while_the_registry_is_gone,
    images.always_at_a_new_revision,
    images.locked_to_what_the_store_lacks,
    images.two_locks_for_one_tag,
    images.plan_that_does_not_fit,
    images.room_for_a_pull,
    images.rotten_layer,
    images.first_build,
    images.changed_files_of_a_build,
    images.failed_build,
    images.rotten_layer_of_a_build,
    images.lost_tag_of_a_build,
    images.build_without_a_dockerfile,
    images.full_disk,
    *rollouts.SCENES,
]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_the_plan_reads_as_written(scene: Callable[[], Scene]) -> None:
    file = HERE / f"{scene.__name__}.txt"
    text = str(scene().plan()) + "\n"
    if os.environ.get("STEAD_UPDATE_PLANS"):
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_file_belongs_to_a_scene() -> None:
    assert {file.stem for file in HERE.glob("*.txt")} == {scene.__name__ for scene in SCENES}
