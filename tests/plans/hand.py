"""Values: scenes of what people did by hand, and made by hand."""

from __future__ import annotations

from runtime.observations import HandStop, Phase
from runtime.wishes import ContainerRequest, RestartRequest
from specs.values import ImageRef
from tests.builders import BUSYBOX, container, desired
from tests.plans.scene import Scene, shop

STOP = HandStop(1_700_000_000.0, "jane", "pts/3", "moving the data")


def stopped_by_hand() -> Scene:
    """Who waits for it to be started has it started no more."""
    scene = Scene().want(shop()).converge()
    scene.runtime.hand_stops["shop/db"] = STOP
    for name in ("shop/db", "shop/web"):
        scene.runtime.set_phase(name, Phase.STOPPED)
    return scene


def stopped_by_hand_and_rebooted() -> Scene:
    scene = stopped_by_hand()
    scene.runtime.set_phase("shop/web", Phase.RUNNING)
    scene.runtime.set_phase("shop/db", Phase.LOST)
    return scene


def stopped_by_hand_and_changed() -> Scene:
    """It is replaced, and is not started."""
    scene = Scene().want(shop()).converge()
    scene.runtime.hand_stops["shop/web"] = HandStop(1_700_000_000.0, "uid 7")
    scene.runtime.set_phase("shop/web", Phase.STOPPED)
    return scene.want(shop("green"))


def stopped_by_hand_before_it_is_made() -> Scene:
    """Between the removal of one and the next one's making it was not forgotten."""
    scene = Scene().want(desired("s", container("s/a"))).converge()
    scene.runtime.remove_container("s/a", replaced=True)
    scene.runtime.hand_stops["s/a"] = STOP
    return scene


def stop_by_hand_that_was_begun() -> Scene:
    """Written down, and then there was a crash."""
    scene = Scene().want(desired("s", container("s/a"))).converge()
    scene.runtime.hand_stops["s/a"] = STOP
    return scene


def stopped_by_hand_and_no_longer_declared() -> Scene:
    scene = Scene().want(desired("s", container("s/a"))).converge()
    scene.runtime.hand_stops["s/a"] = STOP
    scene.runtime.set_phase("s/a", Phase.STOPPED)
    return scene.want(desired("s"))


def _made(name: str, policy: str, auto_remove: str = "") -> ContainerRequest:
    restart, image = RestartRequest(policy), ImageRef.parse(BUSYBOX)
    return ContainerRequest(name, "", "i", "a", "{}", image, restart=restart, auto_remove=auto_remove)


def unmanaged_after_a_reboot() -> Scene:
    """By docker's rules; those that were removed by themselves then are gone, too."""
    scene = Scene(by_hand=True, clock=1000.0)
    scene.runtime.put_image(BUSYBOX, "sha256:busybox")
    for name, policy, phase in (
        ("ran_always", "always", Phase.LOST),
        ("ran_no", "no", Phase.LOST),
        ("ran_on_failure", "on-failure", Phase.LOST),
        ("ran_unless_stopped", "unless-stopped", Phase.LOST),
        ("stopped_always", "always", Phase.STOPPED),
        ("stopped_unless_stopped", "unless-stopped", Phase.STOPPED),
        ("never_started", "always", Phase.CREATED),
    ):
        scene.runtime.create_container(_made(name, policy))
        scene.runtime.set_phase(name, phase, 400.0)
    scene.runtime.create_container(_made("passing", "no", "attended"))
    scene.runtime.set_phase("passing", Phase.LOST, 400.0)
    scene.runtime.booted_at = 500.0
    return scene


def unmanaged_while_the_machine_runs() -> Scene:
    """What was stopped stays stopped; who waits for an end has time to look."""
    scene = Scene(by_hand=True, clock=1000.0)
    scene.runtime.put_image(BUSYBOX, "sha256:busybox")
    for name, auto_remove, at in (
        ("at_once", "now", 999.0),
        ("left_alone", "attended", 900.0),
        ("waited_for", "attended", 999.0),
    ):
        scene.runtime.create_container(_made(name, "no", auto_remove))
        scene.runtime.set_phase(name, Phase.EXITED, at)
    scene.runtime.create_container(_made("stopped", "always"))
    scene.runtime.set_phase("stopped", Phase.STOPPED, 600.0)
    scene.runtime.booted_at = 500.0
    return scene


def unmanaged_without_an_agent() -> Scene:
    """Nothing: `apply` and `down` are about their own things."""
    scene = unmanaged_after_a_reboot()
    scene.by_hand = False
    return scene


def unmanaged_while_a_person_acts_on_it() -> Scene:
    """As it looks while it is about to be started, or goes."""
    scene = unmanaged_after_a_reboot()
    scene.runtime.busy = {"ran_always", "passing"}
    return scene


SCENES = (
    stopped_by_hand,
    stopped_by_hand_and_rebooted,
    stopped_by_hand_and_changed,
    stopped_by_hand_before_it_is_made,
    stop_by_hand_that_was_begun,
    stopped_by_hand_and_no_longer_declared,
    unmanaged_after_a_reboot,
    unmanaged_while_the_machine_runs,
    unmanaged_while_a_person_acts_on_it,
    unmanaged_without_an_agent,
)
