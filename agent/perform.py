"""Effects: one action becomes one runtime call. It decides nothing and catches nothing."""

from __future__ import annotations

from typing import assert_never

from agent import render
from agent.planner.learning import key_of_build
from agent.planner.model import (
    AdjustContainer,
    BackedUp,
    BackupVolume,
    BuildImage,
    BuiltImage,
    Collected,
    CollectImages,
    CreateContainer,
    CreateNetwork,
    CreateVolume,
    DrillBackup,
    Drilled,
    Looked,
    LookUpImage,
    MeasureImage,
    OrphanVolume,
    Pulled,
    PullImage,
    RemoveContainer,
    RemoveNetwork,
    RemoveVolume,
    RepairContainer,
    RepairFirewall,
    RepairImage,
    RepairNetwork,
    Result,
    RetireContainer,
    RunJob,
    Sized,
    StartContainer,
    Step,
    StopContainer,
    Sweep,
)
from runtime.build.request import BuildEvent
from runtime.interface import Progress, ProgressCallback, Runtime
from specs.desired import DesiredImage


def perform(runtime: Runtime, step: Step, progress: ProgressCallback | None = None) -> Result:
    """Do `step`. Returns what it found out. Raises Fault; may be repeated."""
    match step.action:
        case PullImage(image=image):
            what = {"platform": image.platform, "digest": image.digest}
            return Pulled(runtime.pull_image(image.ref, progress=progress, **what))
        case LookUpImage(image=image):
            return Looked(runtime.look_up_image(image.ref))
        case MeasureImage(image=image):
            what = {"platform": image.platform, "digest": image.digest}
            return Sized(runtime.measure_image(image.ref, **what))
        case RepairImage(image=image):
            runtime.repair_image(image.ref, platform=image.platform, digest=image.digest)
        case BuildImage(image=image):
            return _build(runtime, image, progress)
        case CollectImages(keep=keep, limits=limits):
            return Collected(runtime.collect_images(keep, limits))
        case CreateNetwork(network=network):
            runtime.create_network(render.network_request(step.source, network))
        case RepairNetwork(name=name):
            runtime.repair_network(name)
        case RemoveNetwork(name=name):
            runtime.remove_network(name)
        case CreateVolume(volume=volume):
            runtime.create_volume(render.volume_request(step.source, volume))
        case RemoveVolume(name=name):
            runtime.remove_volume(name)
        case OrphanVolume(name=name):
            runtime.orphan_volume(name)
        case BackupVolume(volume=volume, backup=backup, revision=revision):
            return BackedUp(runtime.backup_volume(render.backup_request(volume, backup, revision)))
        case DrillBackup(volume=volume, backup=backup):
            return Drilled(runtime.drill_backup(volume, backup.to))
        case CreateContainer(container=container, image=image):
            runtime.create_container(render.container_request(step.source, container, image))
        case StartContainer(name=name) | RunJob(name=name):
            runtime.start_container(name)
        case StopContainer(name=name):
            runtime.stop_container(name)
        case AdjustContainer(container=container, image=image):
            runtime.adjust_container(render.container_request(step.source, container, image))
        case RepairContainer(name=name):
            runtime.repair_container(name)
        case RetireContainer(name=name):
            runtime.retire_container(name)
        case RemoveContainer(name=name, replaced=replaced, volumes=volumes):
            runtime.remove_container(name, replaced=replaced, volumes=volumes)
        case RepairFirewall():
            runtime.repair_firewall()
        case Sweep():
            runtime.sweep()
        case _:
            assert_never(step.action)
    return None


def _build(runtime: Runtime, image: DesiredImage, progress: ProgressCallback | None) -> BuiltImage:
    def note(event: BuildEvent) -> None:
        if progress is not None and event.kind == "output":
            progress(Progress(image.ref.familiar, "build", 0, 0, event.text))

    request = render.build_request(image)
    before = runtime.build_inputs(request)
    made = runtime.build_image(request, note)
    key = key_of_build(before, runtime.build_inputs(request), pull=request.pull)
    return BuiltImage(key, made.image_id, made.steps, made.cached_steps)
