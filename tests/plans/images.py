"""Scenes of golden plans: images, tags, locks, builds, disks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.planner.model import Collecting
from runtime.images.garbage import Limits as CollectLimits
from runtime.observations import Disk, ImageSize
from specs.desired import Desired
from specs.values import ImageRef
from tests.builders import built, container, desired, image
from tests.plans.scene import Scene


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
