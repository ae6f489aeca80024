"""Values: scenes of rollouts: every row of the tables of agent/planner/rollout.py and versions.py."""

from __future__ import annotations

from dataclasses import replace

from agent.planner.updates import Key, Order, Orders, Pin
from runtime.observations import Health, Phase
from specs.desired import Desired, DesiredContainer, Probe, Update
from tests.builders import container, desired
from tests.plans.scene import Scene

PROBE = Probe(tcp=":80", interval=1.0, timeout=1.0, retries=3)


def replicas(color: str, count: int = 3, probe: Probe | None = PROBE, **update: object) -> Desired:
    """A service of `count` replicas, `color` of it the version; watched for 2 s unless it says otherwise."""
    said = Update(**{"monitor": 2.0, **update})  # type: ignore[arg-type]
    back = replace(said, failure_action="pause")
    made: list[DesiredContainer] = [
        container(
            f"s/web-{n + 1}", env={"COLOR": color}, probe=probe, update=said, way_back=back, service="s/web"
        )
        for n in range(count)
    ]
    return desired("s", *made)


def settle(scene: Scene, *names: str) -> Scene:
    """Those that run are healthy, and have been for long enough."""
    for name in names or sorted(scene.runtime.observe().containers):
        if scene.runtime.observe().containers[name].phase is Phase.RUNNING:
            scene.runtime.set_health(name, Health.HEALTHY)
    return _ran(scene)


def runs(count: int = 3, probe: Probe | None = PROBE, **update: object) -> Scene:
    """Blue stands."""
    scene = Scene(revisions={"s": "blue"}).want(replicas("blue", count, probe, **update))
    return settle(scene.converge()) if probe else _ran(scene.converge())


def _ran(scene: Scene) -> Scene:
    scene.plan()
    scene.now += 2.0
    scene.plan()
    return scene


def change(scene: Scene, color: str, count: int = 3, **update: object) -> Scene:
    scene.revisions = {"s": color}
    return scene.want(replicas(color, count, **update))


def rollout_begins() -> Scene:
    return change(runs(), "green")


def rollout_waits_for_what_is_on_its_way() -> Scene:
    return change(runs(), "green").converge()


def rollout_watches_the_first() -> Scene:
    scene = rollout_waits_for_what_is_on_its_way()
    scene.runtime.set_health("s/web-1", Health.HEALTHY)
    scene.plan()
    scene.now += 1.0
    return scene


def rollout_goes_on_to_the_second() -> Scene:
    return settle(rollout_waits_for_what_is_on_its_way())


def rollout_is_done() -> Scene:
    return settle(settle(rollout_goes_on_to_the_second().converge()).converge())


def rollout_of_two_at_once() -> Scene:
    return change(runs(parallelism=2), "green", parallelism=2)


def rollout_of_all_at_once() -> Scene:
    return change(runs(parallelism=0), "green", parallelism=0)


def rollout_with_start_first() -> Scene:
    return change(runs(order="start-first"), "green", order="start-first")


def rollout_with_start_first_on_its_way() -> Scene:
    return rollout_with_start_first().converge()


def rollout_with_a_delay() -> Scene:
    return settle(change(runs(delay=10.0), "green", delay=10.0).converge())


def rollout_begins_with_what_is_down() -> Scene:
    scene = runs()
    scene.runtime.set_health("s/web-3", Health.UNHEALTHY)
    return change(scene, "green")


def rollout_after_a_reboot() -> Scene:
    """What waits for its turn is started as it was."""
    scene = rollout_waits_for_what_is_on_its_way()
    for name in ("s/web-1", "s/web-2", "s/web-3"):
        scene.runtime.lose(name)
    return scene


def rollout_passes_by_what_is_stopped() -> Scene:
    scene = change(runs(), "green")
    scene.wanted["s"] = replace(
        scene.wanted["s"],
        containers={
            name: replace(want, desired="stopped" if name == "s/web-1" else "running")
            for name, want in scene.wanted["s"].containers.items()
        },
    )
    return scene


def failed(scene: Scene, name: str = "s/web-1") -> Scene:
    scene.runtime.set_health(name, Health.UNHEALTHY)
    return scene


def update_that_is_rolled_back() -> Scene:
    return failed(rollout_waits_for_what_is_on_its_way())


def update_of_a_name_that_another_source_declares_too() -> Scene:
    """It is rolled back all the same: the name is not that source's."""
    scene = runs(1)
    scene.want(desired("z", replace(replicas("red", 1).containers["s/web-1"], place=None)))
    return failed(change(scene, "green", 1).converge())


def update_that_was_rolled_back() -> Scene:
    return settle(update_that_is_rolled_back().converge())


def update_that_was_rolled_back_comes_again() -> Scene:
    """With another commit that says the same."""
    scene = update_that_was_rolled_back()
    scene.revisions = {"s": "another"}
    return scene.want(replicas("green"))


def update_that_was_corrected() -> Scene:
    return change(update_that_was_rolled_back(), "red")


def update_that_exits() -> Scene:
    scene = change(runs(1, None), "green", 1, probe=None).converge()
    scene.runtime.exit("s/web-1", 3)
    return scene


def update_that_is_never_ready() -> Scene:
    scene = rollout_waits_for_what_is_on_its_way()
    scene.plan()
    scene.now += 8.0
    return scene


def update_whose_readiness_probe_alone_never_succeeds() -> Scene:
    """It has that probe only: no time of one that it does not have counts."""

    def gated(color: str) -> Desired:
        wanted = replicas(color, 1, None)
        return desired("s", *(replace(one, readiness=PROBE) for one in wanted.containers.values()))

    scene = Scene(revisions={"s": "blue"}).want(gated("blue")).converge()
    scene.runtime.set_ready("s/web-1", True)
    scene = _ran(scene)
    scene.revisions = {"s": "green"}
    scene.want(gated("green")).converge().plan()
    scene.now += 8.0
    return scene


def update_that_cannot_be_started() -> Scene:
    scene = change(runs(1), "green", 1)
    scene.do("remove container s/web-1").do("create container s/web-1")
    scene.do("start container s/web-1", "start-failed")
    scene.now += 5.0
    return scene.do("start container s/web-1", "start-failed")


def update_that_the_machine_cannot_start() -> Scene:
    """That is no fault of its own: it is tried again."""
    scene = change(runs(1), "green", 1)
    scene.do("remove container s/web-1").do("create container s/web-1")
    scene.do("start container s/web-1", "disk-full")
    scene.now += 5.0
    return scene.do("start container s/web-1", "disk-full")


def update_that_is_paused() -> Scene:
    scene = change(runs(failure_action="pause"), "green", failure_action="pause").converge()
    return failed(scene)


def update_that_is_paused_and_looked_at_by_a_new_agent() -> Scene:
    scene = update_that_is_paused()
    scene.plan()
    scene.runtime.set_health("s/web-1", Health.STARTING)
    scene.memory = replace(scene.memory, watched={})
    return scene


def update_that_goes_on_all_the_same() -> Scene:
    scene = change(runs(failure_action="continue"), "green", failure_action="continue").converge()
    return failed(scene)


def update_of_which_one_may_fail() -> Scene:
    scene = change(runs(max_failure_ratio=0.4), "green", max_failure_ratio=0.4).converge()
    return failed(scene)


def update_of_which_one_failed_and_another_one_later() -> Scene:
    """It was done when the second one failed: that is no fault of the update any more."""
    scene = update_of_which_one_may_fail()
    for name in ("s/web-2", "s/web-3"):
        scene.plan()
        scene = settle(scene.converge(), name)
    scene.plan()
    return failed(scene, "s/web-2")


def first_deployment_that_fails() -> Scene:
    scene = Scene(revisions={"s": "blue"}).want(replicas("blue", 1)).converge()
    return failed(scene)


def rollback_that_is_under_way() -> Scene:
    """The second replica failed, is back and waited for; the first one does well, and is still to go back."""
    return failed(rollout_goes_on_to_the_second().converge(), "s/web-2").converge()


def rollback_that_fails() -> Scene:
    scene = update_that_is_rolled_back().converge()
    return failed(scene)


def rolled_back_to_an_image_whose_name_is_another_ones() -> Scene:
    scene = runs(1)
    scene.runtime.put_image("busybox", "sha256:newer")
    scene.plan()
    scene.converge()
    return failed(scene)


def rolled_back_past_an_image_that_is_gone() -> Scene:
    """A person removed the image of the last good version: the one before it is better than nothing."""
    scene = runs(1)
    scene.runtime.put_image("busybox", "sha256:newer")
    scene.plan()
    scene = settle(scene.converge())
    scene.runtime.put_image("busybox", "sha256:newest")
    scene = change(scene, "green", 1)
    scene.plan()
    scene.converge()
    scene.runtime._ids.discard("sha256:newer")
    return failed(scene).converge()


def pinned_by_hand() -> Scene:
    scene = change(runs(1), "green", 1).converge()
    scene = settle(scene)
    blue = next(version for version in scene.memory.versions["s/web"] if version.revision == "blue")
    scene.orders = Orders(pins={"s/web": Pin(1.0, "root", revision="blue", key=Key(*blue.key))})
    return scene


def pinned_by_hand_to_an_image_that_is_gone() -> Scene:
    """What runs is not removed for it."""
    scene = runs(1)
    scene.runtime.put_image("busybox", "sha256:newer")
    scene.plan()
    scene = settle(scene.converge())
    scene.plan()
    old = scene.memory.versions["s/web"][0]
    scene.orders = Orders(pins={"s/web": Pin(1.0, "root", revision="blue", key=old.key)})
    scene.runtime._ids.discard(old.key.image)
    return scene


def pinned_by_hand_and_on_its_way() -> Scene:
    """Which is no matter for a person, until it is back."""
    return pinned_by_hand().converge()


def pinned_by_hand_and_at_fault() -> Scene:
    return failed(pinned_by_hand_and_on_its_way())


def suspended_by_hand() -> Scene:
    scene = change(runs(1), "green", 1)
    scene.orders = Orders(suspended={"s/web": Order(1.0, "root", "the night", until=101.0)})
    return scene


def suspended_source() -> Scene:
    scene = change(runs(1), "green", 1)
    scene.orders = Orders(suspended={"source:s": Order(1.0, "root")})
    return scene.want(desired("s"))


def suspension_that_ended() -> Scene:
    scene = suspended_by_hand()
    scene.now = 100.0
    return scene


SCENES = [
    rollout_begins,
    rollout_waits_for_what_is_on_its_way,
    rollout_watches_the_first,
    rollout_goes_on_to_the_second,
    rollout_is_done,
    rollout_of_two_at_once,
    rollout_of_all_at_once,
    rollout_with_start_first,
    rollout_with_start_first_on_its_way,
    rollout_with_a_delay,
    rollout_begins_with_what_is_down,
    rollout_after_a_reboot,
    rollout_passes_by_what_is_stopped,
    update_that_is_rolled_back,
    update_of_a_name_that_another_source_declares_too,
    update_that_was_rolled_back,
    update_that_was_rolled_back_comes_again,
    update_that_was_corrected,
    update_that_exits,
    update_that_is_never_ready,
    update_whose_readiness_probe_alone_never_succeeds,
    update_that_cannot_be_started,
    update_that_the_machine_cannot_start,
    update_that_is_paused,
    update_that_is_paused_and_looked_at_by_a_new_agent,
    update_that_goes_on_all_the_same,
    update_of_which_one_may_fail,
    update_of_which_one_failed_and_another_one_later,
    first_deployment_that_fails,
    rollback_that_is_under_way,
    rollback_that_fails,
    rolled_back_to_an_image_whose_name_is_another_ones,
    rolled_back_past_an_image_that_is_gone,
    pinned_by_hand,
    pinned_by_hand_to_an_image_that_is_gone,
    pinned_by_hand_and_on_its_way,
    pinned_by_hand_and_at_fault,
    suspended_by_hand,
    suspended_source,
    suspension_that_ended,
]
