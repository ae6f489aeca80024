"""Effects: a build from its request to its image: the Dockerfile read, its stages done, the result recorded.

Stages that nothing needs are left out, independent ones go on side by side. The image store is held against
collection meanwhile, and everything half-made lies in one directory that goes with the build, however it
ends."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from runtime import events
from runtime.build import graph as graphs
from runtime.build import inline, leftovers, locks, outputs, prune, recipes, remote, values
from runtime.build.bases import BaseImage, Bases, platforms_of
from runtime.build.cache import BUILD_SCHEMA, Cache, Step
from runtime.build.config import ImageConfig, read_config, scratch, write_config
from runtime.build.copying import CopyStep
from runtime.build.dockerfile import parse
from runtime.build.effects import CopyEffect, Effect, RunEffect, WorkdirEffect
from runtime.build.executor import Cancelled, Executor
from runtime.build.failure import invalid
from runtime.build.graph import ContextBase, Graph, ImageBase, PlannedStage, ScratchBase, StageBase
from runtime.build.instructions import Dockerfile, Run
from runtime.build.lint import kept, refuse
from runtime.build.network import Networks
from runtime.build.outputs import Result
from runtime.build.problems import BuildWarning, DockerfileError
from runtime.build.progress import Teller
from runtime.build.rehearsal import rehearse
from runtime.build.request import BuildCallback, BuildInputs, BuildRequest, BuildResult, quiet
from runtime.build.running import RunStep
from runtime.build.sources import Sources
from runtime.build.stage import begin, continue_from
from runtime.build.stages import Made, StageRun, Task, timestamp, workdir_task
from runtime.build.workspace import DIRECTORY, MARK, Workspace, mark_of
from runtime.database import VERSION, Database
from runtime.faults import Fault, faults
from runtime.images.blobs import BlobStore
from runtime.images.catalog import Catalog
from runtime.images.collect import Collector
from runtime.images.compose import Composer
from runtime.images.emulation import check_runs
from runtime.images.layers import LayerStore
from runtime.images.manifests import Platform, host_platform
from runtime.linux import trees
from runtime.paths import Paths
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.build.fetch import Fetcher
    from runtime.images.store import ImageStore
    from runtime.net.fabric import Fabric

__all__ = ["BUILD_SCHEMA", "Builder"]

#: Stages of one build that go on at once.
PARALLEL = 4


class Builder:
    """Builds in one state directory. Thread-safe: builds may go on side by side, in other processes too.

    `store` and `fabric` give those rooms when they are needed: to pull, push and save, and for the network
    of a RUN that really runs."""

    def __init__(
        self,
        paths: Paths,
        database: Database,
        store: Callable[[], ImageStore],
        fabric: Callable[[], Fabric],
    ) -> None:
        self.paths, self.database = paths, database
        self.store, self.fabric = store, fabric
        self.cache = Cache(database)
        self.catalog = Catalog(database)
        self.layers, blobs = LayerStore(paths.layers), BlobStore(paths.blobs)
        self.collector = Collector(paths, self.catalog, blobs, self.layers)
        self.composer = Composer(self.catalog, blobs, self.layers)

    def build(
        self,
        request: BuildRequest,
        progress: BuildCallback = quiet,
        cancelled: threading.Event | None = None,
    ) -> BuildResult:
        """Build for every platform that is asked for and call the first image by the request's names.

        Faults dockerfile-invalid, build-failed (failure.StepFailed), request-invalid, those of pulling.
        Raises Cancelled when `cancelled` was set.
        """
        platforms = platforms_of(request.platforms)
        outputs.check(request)
        with ExitStack() as stack:
            build = self._begin(stack, request, progress, cancelled or threading.Event())
            named = str(host_platform()) if str(host_platform()) in platforms else platforms[0]
            made = [build.image(item, item == named, item == platforms[-1]) for item in platforms]
            build.export(made)
            recipe = build.recipe(made)
        if build.steps > build.cached and prune.shrink(self.paths, self.cache):
            self.collector.collect()
        first = next(item for item in made if item.platform == named)
        name = request.names[0].familiar if request.names else first.id
        events.tell(self.paths.root, "image", "build", first.id, name)
        return BuildResult(
            image_id=first.id,
            steps=build.steps,
            cached_steps=build.cached,
            names=tuple(str(name) for name in request.names) if outputs.needs_image(request) else (),
            images=tuple((item.platform, item.id) for item in made),
            warnings=tuple(dict.fromkeys(build.warnings)),
            recipe=recipe,
        )

    def sweep(self) -> list[str]:
        """Take away what builds that were killed left. Returns what was removed."""
        return leftovers.sweep(self.paths, self._release)

    def _release(self, mark: str) -> None:
        from runtime.build import network

        network.release_all(self.fabric(), self.database, mark)

    def leases(self) -> set[str]:
        """Ids of the leases of builds that are under way."""
        marks = tuple(f"{mark_of(id)}-" for id in leftovers.alive(self.paths))
        query = "SELECT container FROM endpoints WHERE container LIKE ?"
        rows = self.database.read().execute(query, (f"{MARK}%",))
        return {str(row[0]) for row in rows if str(row[0]).startswith(marks)}

    def inputs(self, request: BuildRequest) -> BuildInputs:
        """The identity of a build, equal as long as nothing that it is made from has changed, and its parts.

        Dockerfile, what the ignore file lets through of the context, arguments, target, platform, and the
        images that it begins from as they are in the store. Reads no file whose times tell that it is the
        same."""
        from runtime.build.identity import build_inputs

        return build_inputs(self, request)

    def _begin(
        self,
        stack: ExitStack,
        request: BuildRequest,
        progress: BuildCallback,
        cancelled: threading.Event,
    ) -> _Build:
        if request.network not in ("default", "none", "host"):
            cause = f"network {request.network} is none of default, none, host"
            raise Fault("request-invalid", "build", request.label, cause)
        self.sweep()
        with faults("begin build in", str(self.paths.root)):
            stack.enter_context(self.collector.using())
            work = stack.enter_context(Workspace(self.paths, self.paths.layers))
            secrets = self.paths.run / DIRECTORY / work.id
            secrets.mkdir(mode=0o700, parents=True)
            stack.callback(trees.remove, secrets, ignore_errors=True)
        teller = Teller(progress)
        sources = Sources(self.paths, request, self.cache, work)
        stack.callback(sources.close)
        networks = Networks(work, self.database, self.fabric)
        stack.callback(networks.close)
        executor = Executor(cancelled)
        stack.callback(executor.close)
        bases = Bases(
            self.catalog, self.layers, self.store, teller, request.label, request.pull, request.locked
        )
        caches = Bases(self.catalog, self.layers, self.store, teller, request.label, request.pull)
        return _Build(
            self, request, work, sources, teller, bases, executor, networks, cancelled, caches, self.cache
        )


@dataclass(slots=True)
class _Build:
    """One build, for one platform after the other."""

    builder: Builder
    request: BuildRequest
    work: Workspace
    sources: Sources
    teller: Teller
    bases: Bases
    executor: Executor
    networks: Networks
    cancelled: threading.Event
    caches: Bases  # images that are there for their steps
    cache: Cache
    steps: int = 0
    cached: int = 0
    warnings: list[str] = field(default_factory=list)
    used: list[Step] = field(default_factory=list)
    remote: bool = False  # a step took something from a URL
    fresh: list[str] = field(default_factory=list)  # ids of images that are there for outputs alone
    _file: Dockerfile | None = None

    def image(self, platform: str, named: bool, last: bool) -> Result:
        """Build for one platform; `named`: it gets the request's names; `last`: no further one follows."""
        try:
            graph = self._graph(platform)
            if self.request.cache_from and not self.request.no_cache:
                names, database = self.request.cache_from, self.builder.database
                self.cache = inline.offered(names, platform, self.caches, self.teller, database)
            made = self._stages(graph, platform)
        except DockerfileError as error:
            raise invalid(self.request.label, error) from error
        if last:
            self.networks.end()
        target = made[graph.target.index]
        id = self._record(target, list(self.request.names) if named else [])
        self.builder.cache.touch(self.used, time.time())
        self.sources.save()
        return Result(platform, target.chain, id)

    def export(self, results: Sequence[Result]) -> None:
        """Write the outputs; an image that only they need is not kept."""
        for output in self.request.outputs:
            vertex = self.teller.begin(f"exporting to {output.kind} {output.dest}".rstrip())
            try:
                outputs.write(output, results, self.request, self.work, self.builder.store)
            except Fault as fault:
                vertex.failed(fault.cause)
                raise
            vertex.done()
        for id in self.fresh:
            self.builder.collector.remove(id)

    def recipe(self, results: Sequence[Result]) -> dict[str, object] | None:
        """See runtime.build.recipes. None where something else than files, images and steps counts."""
        request, contexts, bases = self.request, self.sources.told(), self.bases.told()
        if len(results) != 1 or request.outputs or request.dockerfile_text is not None or self.remote:
            return None
        if contexts is None or bases is None:
            return None
        return {
            "layout": VERSION,
            "files": [(path, recipes.file_sum(path)) for path in self.sources.files()],
            "contexts": contexts,
            "bases": bases,
            "steps": [step.key for step in self.used],
            "chain": list(results[0].chain),
            "image": results[0].id,
            "names": [str(name) for name in request.names],
            "warnings": list(self.warnings),
        }

    # ------------------------------------------------------------ the plan

    def _graph(self, platform: str) -> Graph:
        """With the triggers of the images that its stages begin from, which may need further stages."""
        if self._file is None:
            self._file = self._read()
        request = self.request
        args = dict(request.args)
        if request.epoch is not None:
            args.setdefault("SOURCE_DATE_EPOCH", str(request.epoch))
        graph = graphs.plan(
            self._file,
            build_platform=str(host_platform()),
            target_platform=platform,
            target=request.target,
            args=args,
            contexts=request.contexts.keys(),
        )
        refuse(self._file, graph.warnings)
        locks.check(graph, platform, request.contexts, request.locked)
        looked: set[int] = set()
        configs: dict[int, ImageConfig] = {}
        while waiting := [stage for stage in graph.needed if stage.index not in looked]:
            for stage in waiting:
                looked.add(stage.index)
                if isinstance(stage.base, ImageBase | ContextBase):
                    base = self._base_image(stage.base, stage.platform or platform)
                    triggers = ((base.config.get("config") or {}).get("OnBuild") or ()) if base else ()
                    graph = graph.with_triggers(stage.index, [str(item) for item in triggers])
                    configs[stage.index] = self._config(base) if base else ImageConfig()
                    locks.check(graph, platform, request.contexts, request.locked, locks.ONBUILD_CURE)
        self._warn(rehearse(graph, configs))
        return graph

    def _config(self, base: BaseImage) -> ImageConfig:
        try:
            return read_config(base.text)
        except ValueError as error:
            raise Fault("manifest-invalid", "build on", f"image {base.id}", str(error)) from error

    def _read(self) -> Dockerfile:
        vertex = self.teller.begin("[internal] load build definition from Dockerfile")
        try:
            data, name = self.sources.dockerfile()
            file = parse(data, name)
        except (Fault, DockerfileError) as error:
            vertex.failed(str(error))
            raise
        vertex.done()
        return file

    def _warn(self, warnings: Sequence[BuildWarning]) -> None:
        for text in map(str, warnings):
            if text not in self.warnings:
                self.warnings.append(text)
                self.teller.warning(text)

    # ------------------------------------------------------------ stages

    def _stages(self, graph: Graph, platform: str) -> dict[int, Made]:
        """Every needed stage, those that do not wait for each other side by side."""
        needed = graph.needed
        made: dict[int, Made] = {}
        if len(needed) == 1:
            made[needed[0].index] = self._stage(graph, needed[0], platform, {})
            return made
        futures: dict[int, Future[Made]] = {}
        with ThreadPoolExecutor(PARALLEL, "stead-build") as pool:
            try:
                for stage in needed:  # each after those that it needs: a thread never waits for one to come
                    futures[stage.index] = pool.submit(self._stage, graph, stage, platform, futures)
                wait(futures.values(), return_when=FIRST_EXCEPTION)
            except BaseException:
                self.cancelled.set()
                raise
            failed = [item for item in futures.values() if item.done() and item.exception() is not None]
            if failed:
                self.cancelled.set()
                for item in futures.values():
                    item.cancel()
        # what failed by itself comes first: the others may have failed of its end
        errors = [item.exception() for item in (*failed, *futures.values()) if not item.cancelled()]
        for error in sorted(filter(None, errors), key=lambda item: isinstance(item, Cancelled)):
            raise error
        return {index: future.result() for index, future in futures.items()}

    def _stage(
        self, graph: Graph, stage: PlannedStage, platform: str, others: dict[int, Future[Made]]
    ) -> Made:
        wanted = stage.platform or platform
        base = self._begun(stage, wanted, others)

        def tasks(made: Made, effect: Effect) -> Task:
            return self._task(stage, wanted, others, made, effect)

        run = StageRun(
            stage,
            wanted,
            self.request,
            self.work,
            self.cache,
            self.builder.composer,
            self.teller,
            self.cancelled,
            tasks,
            lambda: self._stir(stage),
        )
        try:
            made = run.run(base, graph.scope)
            refuse(graph.file, run.warnings)
            return made
        finally:
            self.steps += len(run.steps)
            self.cached += run.cached
            self.used += [step for step in run.steps if step]
            self._warn(kept(graph.file, run.warnings))

    def _stir(self, stage: PlannedStage) -> None:
        """A step is not cached, so what follows it is not either: begin what its RUNs will wait for."""
        runs = [item for item in stage.instructions if isinstance(item, Run)]
        if runs:
            self.executor.warm()
        if self.request.network == "default" and any(item.network == "default" for item in runs):
            self.networks.warm()

    def _begun(self, stage: PlannedStage, platform: str, others: dict[int, Future[Made]]) -> Made:
        base = stage.base
        if isinstance(base, StageBase):
            made = others[base.index].result()
            return replace(made, state=continue_from(made.state))
        if isinstance(base, ScratchBase):
            found = Platform.parse(platform)
            config = scratch(found.architecture, found.variant)
            return Made((), (), begin(config))
        image = self._base_image(base, platform)
        if image is None:
            return self._from_context(base, platform)
        config = self._config(image)
        created = str(image.config.get("created") or "")
        return Made(image.chain, tuple(image.diff_ids), begin(config), created)

    def _base_image(self, base: ImageBase | ContextBase, platform: str) -> BaseImage | None:
        """None for a named context that is a directory."""
        if isinstance(base, ImageBase):
            return self.bases.image(base.name, base.platform or platform)
        where = self.request.contexts[self._context_name(base.name)]
        if where.startswith(locks.IMAGE_CONTEXT):
            return self.bases.image(where.removeprefix(locks.IMAGE_CONTEXT), base.platform or platform)
        return None

    def _context_name(self, name: str) -> str:
        wanted = graphs.familiar(name)
        return next(key for key in self.request.contexts if graphs.familiar(key) == wanted)

    def _from_context(self, base: ImageBase | ContextBase, platform: str) -> Made:
        raise Fault(
            "request-invalid",
            "build",
            self.request.label,
            f"FROM {base.name}: that context is a directory, and no image",
            f"give it as {locks.IMAGE_CONTEXT}NAME",
        )

    # ------------------------------------------------------------ steps

    def _task(
        self,
        stage: PlannedStage,
        platform: str,
        others: dict[int, Future[Made]],
        made: Made,
        effect: Effect,
    ) -> Task:
        request = self.request
        if isinstance(effect, WorkdirEffect):
            return workdir_task(self.work, made, effect, request.epoch)
        if isinstance(effect, CopyEffect):
            chain, name = self._origin(stage, effect.from_, platform, others)
            source = (
                self.sources.context(name).source
                if chain is None and effect.sources and (name or self._needs_context(effect))
                else None
            )
            self.remote |= any(self._is_remote(effect, text) for text in effect.sources)
            return CopyStep(
                self.builder.paths,
                self.work,
                self.sources,
                self._fetcher,
                request,
                made,
                effect,
                chain,
                source,
            ).task()
        assert isinstance(effect, RunEffect)
        check = {"os": Platform.parse(platform).os, "architecture": Platform.parse(platform).architecture}
        return RunStep(
            self.builder.paths,
            self.work,
            self.sources,
            self.executor,
            self.networks,
            request,
            made,
            effect,
            platform,
            lambda name: self._origin(stage, name, platform, others),
            lambda: check_runs(check, host_platform(), request.label),
        ).task()

    @staticmethod
    def _is_remote(effect: CopyEffect, text: str) -> bool:
        return effect.add and (remote.is_url(text) or remote.repository(text) is not None)

    def _fetcher(self) -> Fetcher:
        from runtime.build.fetch import Fetcher

        return Fetcher(self.builder.cache, self.work.scratch)

    def _needs_context(self, effect: CopyEffect) -> bool:
        return not all(self._is_remote(effect, text) for text in effect.sources)

    def _origin(
        self, stage: PlannedStage, name: str, platform: str, others: dict[int, Future[Made]]
    ) -> tuple[tuple[str, ...] | None, str]:
        """The layers that `--from=name` means; or None and the name of a context, empty for the build's
        own."""
        if not name:
            return None, ""
        base = stage.sources[name]
        if isinstance(base, StageBase):
            return others[base.index].result().chain, name
        if isinstance(base, ScratchBase):
            return (), name
        image = self._base_image(base, platform)
        if image is not None:
            return image.chain, name
        return None, self._context_name(base.name)

    # ------------------------------------------------------------ the image

    def _record(self, made: Made, names: list[ImageRef]) -> str:
        """The image in the store; without its names where no output wants it there."""
        request = self.request
        config = made.state.config
        if request.labels:
            config = values.replace(config, labels={**config.labels, **request.labels})
        if request.inline_cache:
            config = values.replace(config, extra=inline.written(config.extra, made.chain, self.used))
        created = made.created or timestamp(time.time())
        if request.epoch is not None:
            created = timestamp(request.epoch)
        text = write_config(config, made.diff_ids, created)
        id = f"sha256:{hashlib.sha256(text).hexdigest()}"
        kept = outputs.needs_image(request)
        if not kept and self.builder.catalog.find(id) != id:
            self.fresh.append(id)
        vertex = self.teller.begin("exporting to image")
        self.builder.composer.add_image(text, made.chain, names if kept else [])
        vertex.note(f"writing image {id}")
        for name in names if kept else []:
            vertex.note(f"naming to {name}")
        vertex.done()
        return id
