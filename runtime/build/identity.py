"""Effects: the identity of a build, from what it is made from and without building it."""

from __future__ import annotations

from runtime.build import graph as graphs
from runtime.build import tree
from runtime.build.bases import Bases, platforms_of
from runtime.build.cache import key_of
from runtime.build.dockerfile import parse
from runtime.build.failure import invalid
from runtime.build.graph import Graph, ImageBase
from runtime.build.problems import DockerfileError
from runtime.build.progress import Teller
from runtime.build.request import BuildRequest, quiet
from runtime.build.sources import Sources
from runtime.images.manifests import host_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.build.builder import Builder


def build_key(builder: Builder, request: BuildRequest) -> str:
    """Faults request-invalid, dockerfile-invalid. Brings no image and runs nothing.

    Every file that the ignore file lets through counts, as it is not known before a build which ones are
    copied."""
    sources = Sources(builder.paths, request, builder.cache, None)
    try:
        data, name = sources.dockerfile()
        file = parse(data, name)
        bases = Bases(builder.catalog, builder.store, Teller(quiet), request.label, False)
        images: dict[str, str] = {}
        for platform in platforms_of(request.platforms):
            graph = graphs.plan(
                file,
                build_platform=str(host_platform()),
                target_platform=platform,
                target=request.target,
                args=request.args,
                contexts=request.contexts.keys(),
            )
            images |= {
                f"{name} {where}": bases.known(name, where) for name, where in _images(graph, platform)
            }
        contexts = {
            name: _sum(sources, name) for name in ("", *sorted(request.contexts)) if _local(request, name)
        }
    except DockerfileError as error:
        raise invalid(request.label, error) from error
    finally:
        sources.close()
    return key_of(
        kind="build",
        dockerfile=data.decode("utf-8", "replace"),
        target=request.target,
        args=sorted(request.args.items()),
        labels=sorted(request.labels.items()),
        contexts=contexts,
        named=sorted(request.contexts.items()),
        context=request.context if not _local(request, "") else "",
        platforms=platforms_of(request.platforms),
        images=images,
        network=request.network,
        hosts=sorted(request.extra_hosts),
        shm=request.shm_size,
        ulimits=sorted(request.ulimits),
        epoch=request.epoch,
    )


def _images(graph: Graph, platform: str) -> list[tuple[str, str]]:
    """(name, platform) of every image that a needed stage begins from or copies from."""
    found = []
    for stage in graph.needed:
        for base in (stage.base, *stage.sources.values()):
            if isinstance(base, ImageBase):
                found.append((base.name, base.platform or stage.platform or platform))
    return found


def _local(request: BuildRequest, name: str) -> bool:
    where = request.contexts[name] if name else request.context
    return where.startswith("/")


def _sum(sources: Sources, name: str) -> str:
    source = sources.context(name).source
    return source.sums.of("", tree.walk(source.root, "", source.seen), source.owner)
