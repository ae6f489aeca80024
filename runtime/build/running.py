"""Effects: the step of a RUN: its mounts summed for the key, and its program run when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.build.effects import SCRIPTS, RunEffect
from runtime.build.executor import Executor
from runtime.build.failure import StepFailed
from runtime.build.keys import run_key
from runtime.build.mounts import RunMount
from runtime.build.network import Networks
from runtime.build.progress import Vertex
from runtime.build.request import BuildRequest
from runtime.build.selection import SelectionError
from runtime.build.sources import Sources
from runtime.build.stages import Made, Task, environment_of
from runtime.build.workspace import DIRECTORY, Workspace
from runtime.paths import Paths

if TYPE_CHECKING:
    from typing import Any

    from runtime.build import run
    from runtime.build.mounting import Mounted, Origin

#: Layers of `--from=name`, or None and the name of a context.
FindOrigin = Callable[[str], tuple[tuple[str, ...] | None, str]]


@dataclass(slots=True)
class RunStep:
    """One RUN over `made`. `check` raises a Fault where this machine cannot run the platform's programs."""

    paths: Paths
    work: Workspace
    sources: Sources
    executor: Executor
    networks: Networks
    request: BuildRequest
    made: Made
    effect: RunEffect
    platform: str
    origin: FindOrigin
    check: Callable[[], None]

    def task(self) -> Task:
        """Fault build-failed for a mount whose source is not there."""
        if self.effect.security == "insecure":
            raise self._failed("security=insecure is not allowed here: a build's programs are confined")
        try:
            told = [self._told(mount) for mount in self.effect.mounts]
        except SelectionError as error:
            raise self._failed(str(error)) from error
        return Task(run_key(self.effect, self.made.top, told, self.platform, self.request), self._do)

    def _failed(self, cause: str, vertex: Vertex | None = None, code: int = 0) -> StepFailed:
        tail = tuple(vertex.tail) if vertex is not None else ()
        effect = self.effect
        return StepFailed(self.request.label, effect.place, effect.title, cause, exit_code=code, tail=tail)

    def _told(self, mount: RunMount) -> list[Any]:
        """What of a mount the layer follows from: the content of a bind, nothing of a secret but its name."""
        same = [mount.type, mount.target, mount.id, mount.env]
        if mount.type == "bind":
            chain, name = self.origin(mount.from_)
            pattern = mount.source or "."
            if chain is not None:
                sums = self.sources.summed(chain, mount.from_, pattern, False, ())
            else:
                _, sums = self.sources.picked(self.sources.context(name).source, pattern, False, ())
            return [*same, sums, mount.read_only]
        if mount.type == "cache":
            return [*same, mount.sharing, mount.source, mount.from_]
        return [*same, mount.size]

    # ------------------------------------------------------------ doing it

    def _do(self, vertex: Vertex) -> Path:
        # what only a step that really runs needs
        from runtime.build import run
        from runtime.build.mounting import Mounted, MountFailed, Mounting

        self.check()
        self.executor.warm()
        caches, secrets = self.paths.root / DIRECTORY / "cache", self.paths.run / DIRECTORY / self.work.id
        found = Mounted()
        with Mounting(self.work, caches, secrets, self.request, self._opened) as mounting:
            try:
                for mount in self.effect.mounts:
                    mounting.add(mount, found)
            except (MountFailed, SelectionError) as error:
                raise self._failed(str(error)) from error
            with self.networks.of(self._network()) as network:
                outcome, upper = run.run(
                    self.work,
                    self.executor,
                    self.paths.run,
                    self.made.chain,
                    self._program(found, network.path, network.addresses, network.gateway),
                    vertex.output,
                )
        vertex.flush()
        if outcome.failed:
            raise self._failed(outcome.failed, vertex, outcome.code)
        if outcome.code:
            shown = f'process "{" ".join(self.effect.arguments)}" did not complete successfully'
            cause = f"{shown}: exit code: {outcome.code}"
            raise self._failed(cause + (" (out of memory)" if outcome.oom else ""), vertex, outcome.code)
        return upper

    def _network(self) -> str:
        return self.effect.network if self.effect.network != "default" else self.request.network

    def _opened(self, mount: RunMount) -> Origin:
        from runtime.build.mounting import Origin

        chain, name = self.origin(mount.from_)
        if chain is not None:
            return Origin(chain, self.sources.layers(chain, mount.from_))
        return Origin(None, self.sources.context(name).source)

    def _program(self, found: Mounted, network: str, addresses: tuple[str, ...], gateway: str) -> run.Program:
        from runtime.build import run

        effect, request = self.effect, self.request
        mounts = list(found.mounts)
        if effect.script is not None:
            path = self.work.new() / effect.script.name
            path.write_bytes(effect.script.content)
            path.chmod(0o755)
            mounts.append((run.bind(path, f"{SCRIPTS}/{effect.script.name}", read_only=True), False))
        if not effect.arguments:
            raise self._failed("it names no program")
        return run.Program(
            words=effect.arguments,
            environment={**environment_of(effect), **found.environment},
            directory=effect.workdir,
            user=effect.user,
            network=network,
            addresses=addresses,
            gateway=gateway,
            mounts=tuple(mounts),
            trees=tuple(found.trees),
            extra_hosts=request.extra_hosts,
            shm_size=request.shm_size,
            ulimits=request.ulimits,
            limits=request.limits,
        )
