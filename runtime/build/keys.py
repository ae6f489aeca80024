"""Decisions: what a step's layer follows from, as the key under which it is remembered.

Names of stages, times and the values of secrets are no part of it; proxies neither (Dockerfile reference,
"ARG", predefined). What comes before the step counts as the chain id of the layers below.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from runtime.build.cache import key_of
from runtime.build.effects import CopyEffect, InlineFile, RunEffect, WorkdirEffect
from runtime.build.request import BuildRequest


def workdir_key(effect: WorkdirEffect, parent: str, epoch: int | None) -> str:
    return key_of(kind="workdir", parent=parent, path=effect.path, user=effect.user, epoch=epoch)


def copy_key(effect: CopyEffect, parent: str, sums: Sequence[object], epoch: int | None) -> str:
    """`sums` tell what each source is, in order."""
    return key_of(
        kind="add" if effect.add else "copy",
        parent=parent,
        sums=list(sums),
        files=[_file(file) for file in effect.files],
        destination=effect.destination,
        chown=effect.chown,
        chmod=effect.chmod,
        link=effect.link,
        parents=effect.parents,
        unpack=effect.unpack,
        epoch=epoch,
    )


def run_key(
    effect: RunEffect, parent: str, mounts: Sequence[object], platform: str, request: BuildRequest
) -> str:
    """`mounts` tell what each mount shows, but for secrets and agents, which count by their names."""
    return key_of(
        kind="run",
        parent=parent,
        arguments=list(effect.arguments),
        environment=sorted(effect.environment.items()),
        workdir=effect.workdir,
        user=effect.user,
        mounts=list(mounts),
        network=effect.network if effect.network != "default" else request.network,
        security=effect.security,
        script=_file(effect.script) if effect.script is not None else None,
        platform=platform,
        hosts=sorted(request.extra_hosts),
        shm=request.shm_size,
        ulimits=sorted(request.ulimits),
        epoch=request.epoch,
    )


def _file(file: InlineFile) -> list[str]:
    return [file.name, sha256(file.content).hexdigest()]
