"""Golden plans: what is wanted + what exists + memory + now -> the text that users see.

`STEAD_UPDATE_PLANS=1 pytest tests/plans` writes the files anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent.perform import perform
from agent.planner import backoff
from agent.planner.model import Collecting, Limits, Memory, Plan, Step, Subject, World
from agent.planner.plan import plan
from agent.sight import Sight
from runtime.faults import Fault
from runtime.images.garbage import Limits as CollectLimits
from runtime.interface import Defect, Disk, Health, ImageSize, Phase
from specs.desired import Desired, Place, Probe, Restart
from specs.values import ImageRef, MountPoint
from tests.builders import built, container, desired, image, network, volume
from tests.fake_runtime import FakeRuntime

HERE = Path(__file__).parent
LIMITS = Limits()


@dataclass
class Scene:
    """A machine, and what happened on it."""

    runtime: FakeRuntime = field(default_factory=FakeRuntime)
    wanted: dict[str, Desired] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    flying: dict[Subject, Step] = field(default_factory=dict)
    now: float = 0.0
    drop_volumes: frozenset[str] = frozenset()
    collecting: Collecting | None = None
    clock: float = 1.0

    def __post_init__(self) -> None:
        for name in ("busybox", "nginx", "postgres"):
            self.runtime.available[f"docker.io/library/{name}:latest"] = f"sha256:{name}"

    def want(self, want: Desired) -> Scene:
        self.wanted[want.source] = want
        depends = {n: frozenset(d.container for d in c.depends_on) for n, c in want.containers.items()}
        self.memory = backoff.new_revision(self.memory, want.source, depends)
        return self

    def plan(self) -> Plan:
        world = World(
            self.wanted,
            self.runtime.observe(),
            self.memory,
            self.flying,
            self.now,
            LIMITS,
            self.drop_volumes,
            inputs=Sight(self.runtime).inputs(self.wanted.values(), self.now, self.memory.built),
            collecting=self.collecting,
            clock=self.clock,
        )
        return plan(world)

    def converge(self) -> Scene:
        while ready := self.plan().ready:
            self.do(ready[0].id)
        return self

    def do(self, id: str, fault: str = "") -> Scene:
        step = next(step for step in self.plan().ready if step.id == id)
        if fault:
            error = Fault(fault, *id.split(" ", 1), "it did not work")
            self.memory = backoff.failed(self.memory, step, error.code, str(error), self.now, LIMITS)
        else:
            found = perform(self.runtime, step)
            self.memory = backoff.succeeded(self.memory, step, self.now, LIMITS, found)
        return self

    def measured(self) -> Scene:
        """Every image that is to be pulled was asked about."""
        for step in self.plan().ready:
            if step.verb == "measure":
                self.do(step.id)
        return self

    def start(self, id: str) -> Scene:
        step = next(step for step in self.plan().ready if step.id == id)
        self.flying[step.subject] = step
        return self


def shop(color: str = "blue", **db: str) -> Desired:
    return desired(
        "shop",
        network("shop/back"),
        volume("shop/data"),
        container(
            "shop/db",
            image="postgres",
            networks=["shop/back"],
            volumes={"shop/data": "/data"},
            line=3,
            env=db,
        ),
        container(
            "shop/web",
            image="nginx",
            env={"COLOR": color, "DB_PASSWORD": color},
            networks=["shop/back"],
            ports=["8080:80"],
            after={"shop/db": "started"},
            line=9,
        ),
    )


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


def stopped_by_hand() -> Scene:
    scene = nothing_to_do()
    scene.runtime.set_phase("shop/web", Phase.STOPPED)
    return scene


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
    return desired("s", replace(want, update_order="start-first"))


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


def image_that_is_never_pulled() -> Scene:
    return Scene().want(desired("s", container("s/a"), image("busybox", pull="never")))


NGINX = "docker.io/library/nginx:latest"


def moving(**more: Any) -> Scene:
    """Two containers of an image whose tag is looked up every hour, all well."""
    want = desired(
        "s", image("nginx", **more), container("s/a", image="nginx"), container("s/b", image="nginx")
    )
    return Scene().want(want).converge()


def tag_that_is_due() -> Scene:
    scene = moving(interval=3600.0)
    scene.now = 3600.0
    return scene


def tag_that_moved() -> Scene:
    scene = tag_that_is_due()
    scene.runtime.available[NGINX] = "sha256:newer"
    return scene.do(f"look-up image {NGINX}")


def registry_that_is_gone_when_a_tag_is_due() -> Scene:
    scene = tag_that_is_due()
    return scene.do(f"look-up image {NGINX}", "registry-unreachable")


def newer_image_that_cannot_be_pulled() -> Scene:
    scene = tag_that_moved().measured()
    return scene.do(f"pull image {NGINX}", "registry-unreachable")


def new_container_while_the_registry_is_gone() -> Scene:
    scene = moving(pull="always")
    scene.want(desired("s", image("nginx", pull="always"), container("s/c", image="nginx")))
    return scene.do(f"look-up image {NGINX}", "registry-unreachable")


def always_at_a_new_revision() -> Scene:
    scene = moving(pull="always")
    return scene.want(desired("s", image("nginx", pull="always"), container("s/a", image="nginx")))


def locked_to_what_the_store_lacks() -> Scene:
    scene = moving()
    scene.runtime.older.add("sha256:locked")
    return scene.want(desired("s", image("nginx", digest="sha256:locked"), container("s/a", image="nginx")))


def two_locks_for_one_tag() -> Scene:
    scene = moving(digest="sha256:nginx")
    return scene.want(desired("t", image("nginx", digest="sha256:other"), container("t/a", image="nginx")))


def plan_that_does_not_fit() -> Scene:
    scene = Scene()
    scene.runtime.disk = Disk("/var/lib/stead", 10_000_000_000, 700_000_000)
    for name, size in {"busybox": 1_000_000, "nginx": 400_000_000, "postgres": 500_000_000}.items():
        scene.runtime.sizes[f"docker.io/library/{name}:latest"] = ImageSize(size // 4, size - size // 4)
    scene.want(desired("a", container("a/small")))
    scene.want(desired("b", container("b/web", image="nginx"), container("b/db", image="postgres")))
    return scene.measured()


def room_for_a_pull() -> Scene:
    """After it is collected: another look at the disk says whether that was enough."""
    scene = plan_that_does_not_fit()
    scene.collecting = Collecting(3600.0, CollectLimits(high=0.95, low=0.8))
    scene.memory = replace(scene.memory, collected=0.0)
    scene.now = 300.0
    return scene


def rotten_layer() -> Scene:
    scene = moving()
    scene.runtime.rot("nginx")
    return scene


def app(**more: Any) -> Desired:
    return desired("s", built("localhost/s/app", **more), container("s/app", image="localhost/s/app"))


def first_build() -> Scene:
    scene = Scene().want(app())
    scene.runtime.recipes["localhost/s/app:latest"] = "one"
    return scene


def changed_files_of_a_build() -> Scene:
    scene = first_build().converge()
    scene.runtime.recipes["localhost/s/app:latest"] = "two"
    return scene


def failed_build() -> Scene:
    return changed_files_of_a_build().do("build image localhost/s/app:latest", "request-invalid")


def rotten_layer_of_a_build() -> Scene:
    scene = first_build().converge()
    scene.runtime.rot("localhost/s/app")
    return scene


def lost_tag_of_a_build() -> Scene:
    scene = first_build().want(app(tags=(ImageRef.parse("app:1"),))).converge()
    scene.runtime.put_image("app:1", "sha256:other")
    return scene


def build_without_a_dockerfile() -> Scene:
    scene = first_build().converge()
    del scene.runtime.recipes["localhost/s/app:latest"]
    return scene


def full_disk() -> Scene:
    scene = moving()
    scene.runtime.older.add("sha256:gone")
    scene.runtime.put_image("old", "sha256:old")
    scene.collecting = Collecting(3600.0, CollectLimits(high=0.85, low=0.8))
    scene.memory = replace(scene.memory, collected=0.0)
    scene.runtime.disk = Disk("/var/lib/stead", 10_000_000_000, 1_000_000_000)
    scene.now = 400.0
    return scene


SCENES: list[Callable[[], Scene]] = [
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
    stopped_by_hand,
    volume_that_is_backed_up,
    volume_that_was_undeclared_for_long,
    wanted_stopped,
    suspended,
    name_of_another_source,
    ports_that_swap,
    start_first,
    start_first_while_the_new_one_is_not_ready,
    start_first_when_the_new_one_is_ready,
    start_first_changed_again_on_its_way,
    start_first_of_what_does_not_run,
    start_first_when_the_old_one_died,
    image_that_is_never_pulled,
    tag_that_is_due,
    tag_that_moved,
    registry_that_is_gone_when_a_tag_is_due,
    newer_image_that_cannot_be_pulled,
    new_container_while_the_registry_is_gone,
    always_at_a_new_revision,
    locked_to_what_the_store_lacks,
    two_locks_for_one_tag,
    plan_that_does_not_fit,
    room_for_a_pull,
    rotten_layer,
    first_build,
    changed_files_of_a_build,
    failed_build,
    rotten_layer_of_a_build,
    lost_tag_of_a_build,
    build_without_a_dockerfile,
    full_disk,
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
