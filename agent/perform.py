"""Effects: one action becomes one runtime call. It decides nothing and catches nothing."""

from __future__ import annotations

from typing import assert_never

from agent import render
from agent.planner.model import (
    AdjustContainer,
    CreateContainer,
    CreateNetwork,
    CreateVolume,
    PullImage,
    RemoveContainer,
    RemoveNetwork,
    RemoveVolume,
    RepairContainer,
    RepairFirewall,
    RepairNetwork,
    StartContainer,
    Step,
    StopContainer,
    Sweep,
)
from runtime.interface import ProgressCallback, Runtime


def perform(runtime: Runtime, step: Step, progress: ProgressCallback | None = None) -> None:
    """Do `step`. Raises Fault; may be repeated."""
    match step.action:
        case PullImage(image=image):
            runtime.pull_image(image.ref, platform=image.platform, progress=progress)
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
        case CreateContainer(container=container, image=image):
            runtime.create_container(render.container_request(step.source, container, image))
        case StartContainer(name=name):
            runtime.start_container(name)
        case StopContainer(name=name):
            runtime.stop_container(name)
        case AdjustContainer(container=container, image=image):
            runtime.adjust_container(render.container_request(step.source, container, image))
        case RepairContainer(name=name):
            runtime.repair_container(name)
        case RemoveContainer(name=name):
            runtime.remove_container(name)
        case RepairFirewall():
            runtime.repair_firewall()
        case Sweep():
            runtime.sweep()
        case _:
            assert_never(step.action)
