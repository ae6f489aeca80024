"""Values: a container of FakeRuntime, and how it is seen."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.loosened import loosened
from runtime.observations import Defect, Health, ObservedContainer, Phase
from runtime.requests import encode
from runtime.wishes import ContainerRequest


@dataclass
class FakeContainer:
    id: str
    request: ContainerRequest
    image_id: str
    phase: Phase = Phase.CREATED
    health: Health = Health.NONE
    ready: bool = True
    exit_code: int | None = None
    started_at: float = 0.0
    started_ticks: int = 0
    restarts: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    addresses: tuple[tuple[str, str], ...] = ()
    mounted: tuple[tuple[str, str], ...] = ()  # (reference, image id)
    defects: tuple[Defect, ...] = ()
    error: str = ""
    created_at: float = 0.0
    finished_at: float = 0.0


def observed(container: FakeContainer) -> ObservedContainer:
    request = container.request
    return ObservedContainer(
        id=container.id,
        name=request.name,
        source=request.source,
        identity=request.identity,
        adjustable=request.adjustable,
        facets=request.facets,
        image=str(request.image),
        image_id=container.image_id,
        phase=container.phase,
        project=request.project,
        pid=4242 if container.phase is Phase.RUNNING else 0,
        exit_code=container.exit_code,
        created_at=container.created_at,
        started_at=container.started_at,
        started_ticks=container.started_ticks if container.phase is Phase.RUNNING else 0,
        restarts=container.restarts,
        restart_reasons=tuple(sorted(container.reasons.items())),
        health=container.health,
        ready=container.ready,
        error=container.error,
        networks=container.addresses,
        ports=request.ports,
        volumes=tuple(m.source for m in request.mounts if m.kind == "volume" and m.source),
        mounted_images=container.mounted,
        privileged=request.privileged,
        loosened=tuple(loosened(encode(request))),
        owns_network=request.owns_network,
        defects=container.defects,
        restart_policy=request.restart.policy,
        auto_remove=request.auto_remove,
        finished_at=container.finished_at,
    )
