"""Values: golden scenes of containers that wait for others, and follow them."""

from __future__ import annotations

from dataclasses import replace

from agent.planner import versions
from runtime.observations import PROBE_STOPPED, Health, Phase
from runtime.shim.supervise import OWNER
from specs.desired import Dependency, Desired, Probe, Restart
from tests.builders import container, desired
from tests.plans.scene import Scene


def chain(
    condition: str = "started", *, restart: bool = True, required: bool = True, color: str = "blue"
) -> Desired:
    """A database, a web server that depends on it, and a proxy that depends on the web server."""
    probe = Probe(shell="true") if condition == "healthy" else None
    again = Restart("no") if condition == "completed" else Restart()
    on_db = Dependency("s/db", condition, required, restart)
    db = container("s/db", env={"COLOR": color}, probe=probe, restart=again, line=1)
    web = container("s/web", depends_on=(on_db,), line=5)
    proxy = container("s/proxy", depends_on=(Dependency("s/web", restart=restart),), line=9)
    return desired("s", db, web, proxy)


def up(want: Desired) -> Scene:
    return Scene().want(want).converge()


def dependency_that_its_shim_restarted() -> Scene:
    scene = up(chain())
    scene.runtime.restart("s/db")
    return scene


def dependency_that_was_restarted_and_followed() -> Scene:
    """Web is started anew, then the proxy that follows it; then there is nothing to do."""
    return dependency_that_its_shim_restarted().do("stop container s/web").do("start container s/web")


def dependency_that_was_restarted_and_followed_by_all() -> Scene:
    scene = dependency_that_was_restarted_and_followed()
    return scene.do("stop container s/proxy").do("start container s/proxy")


def dependency_that_was_replaced() -> Scene:
    scene = up(chain()).want(chain(color="red"))
    for step in ("remove container s/db", "create container s/db", "start container s/db"):
        scene.do(step)
    return scene


def restarted_dependency_that_nobody_follows() -> Scene:
    scene = up(chain(restart=False))
    scene.runtime.restart("s/db")
    return scene


def restarted_dependency_that_is_not_healthy_yet() -> Scene:
    scene = up(chain("healthy"))
    scene.runtime.set_health("s/db", Health.HEALTHY)
    scene.converge()
    scene.runtime.restart("s/db")
    scene.runtime.set_health("s/db", Health.STARTING)
    return scene


def restarted_dependency_that_is_healthy_again() -> Scene:
    scene = restarted_dependency_that_is_not_healthy_yet()
    scene.runtime.set_health("s/db", Health.HEALTHY)
    return scene


def one_shot_that_has_completed() -> Scene:
    scene = up(chain("completed"))
    scene.runtime.exit("s/db", 0)
    return scene


def one_shot_that_failed() -> Scene:
    scene = up(chain("completed"))
    scene.runtime.exit("s/db", 3)
    return scene


def one_shot_that_its_probe_stopped() -> Scene:
    """That its program ended well, since it was told to end, is no completion."""
    scene = up(chain("completed"))
    scene.runtime.exit("s/db", 0)
    scene.runtime.set_phase("s/db", Phase.EXITED, error=PROBE_STOPPED)
    return scene


def optional_one_shot_that_failed() -> Scene:
    scene = up(chain("completed", required=False))
    scene.runtime.exit("s/db", 3)
    return scene


def optional_one_shot_that_still_works() -> Scene:
    return up(chain("completed", required=False))


def optional_dependency_that_cannot_be_started() -> Scene:
    scene = Scene().want(chain("healthy", required=False)).measured()
    scene.do("pull image docker.io/library/busybox:latest").do("create container s/db")
    return scene.do("start container s/db", fault="start-failed")


def optional_dependency_that_is_wanted_stopped() -> Scene:
    want = chain(required=False)
    stopped = replace(want.containers["s/db"], desired="stopped")
    return up(replace(want, containers={**want.containers, "s/db": stopped}))


def one_shot_after_a_reboot() -> Scene:
    """It has completed: nothing starts it again, and its dependents start at once."""
    scene = one_shot_that_has_completed().converge()
    for name in ("s/web", "s/proxy"):
        scene.runtime.set_phase(name, Phase.LOST)
    return scene


def inside(mode: str) -> Scene:
    """A database, and a container that has a namespace of it."""
    guest = container("s/guest", depends_on=(Dependency("s/db"),), line=5, **{mode: "container:s/db"})
    return up(desired("s", container("s/db", line=1), guest))


def namespace_of_one_that_is_between_two_runs() -> Scene:
    """The owner was started, which is enough for others; it has no namespace now."""
    scene = inside("pid_mode")
    scene.runtime.set_phase("s/db", Phase.BACKOFF)
    scene.runtime.lose("s/guest")
    return scene


def namespace_of_one_that_runs() -> Scene:
    scene = inside("ipc_mode")
    scene.runtime.lose("s/guest")
    return scene


def ended_with_the_owner_of_its_namespace() -> Scene:
    """As often as can be: it is no fault of its own, and there is nothing to do."""
    scene = inside("pid_mode")
    scene.plan()
    for _ in range(versions.LOOP):
        scene.runtime.restart("s/guest", OWNER)
    return scene


SCENES = [
    namespace_of_one_that_is_between_two_runs,
    namespace_of_one_that_runs,
    ended_with_the_owner_of_its_namespace,
    dependency_that_its_shim_restarted,
    dependency_that_was_restarted_and_followed,
    dependency_that_was_restarted_and_followed_by_all,
    dependency_that_was_replaced,
    restarted_dependency_that_nobody_follows,
    restarted_dependency_that_is_not_healthy_yet,
    restarted_dependency_that_is_healthy_again,
    one_shot_that_has_completed,
    one_shot_that_failed,
    one_shot_that_its_probe_stopped,
    optional_one_shot_that_failed,
    optional_one_shot_that_still_works,
    optional_dependency_that_cannot_be_started,
    optional_dependency_that_is_wanted_stopped,
    one_shot_after_a_reboot,
]
