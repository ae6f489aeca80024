"""Effects: the identity of a build, from what it is made from and without building it."""

from __future__ import annotations

import hashlib

from runtime.build import graph as graphs
from runtime.build import locks, tree
from runtime.build.bases import Bases, platforms_of
from runtime.build.cache import key_of
from runtime.build.dockerfile import parse
from runtime.build.failure import invalid
from runtime.build.problems import DockerfileError
from runtime.build.progress import Teller
from runtime.build.request import BASE_PART, BuildInputs, BuildRequest, quiet
from runtime.build.sources import Sources
from runtime.images.manifests import host_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.build.builder import Builder


#: Parts that are told apart; of a larger build only the key is known.
MAX_PARTS = 20_000


def build_inputs(builder: Builder, request: BuildRequest) -> BuildInputs:
    """Faults request-invalid, dockerfile-invalid. Brings no image and runs nothing.

    Every file that the ignore file lets through counts, as it is not known before a build which ones are
    copied."""
    sources = Sources(builder.paths, request, builder.cache, None)
    try:
        data, name = sources.dockerfile()
        file = parse(data, name)
        bases = Bases(
            builder.catalog,
            builder.layers,
            builder.store,
            Teller(quiet),
            request.label,
            False,
            request.locked,
        )
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
            locks.check(graph, platform, request.contexts, request.locked)
            for item in locks.needed(graph, platform, request.contexts):
                if not item.context or locks.digest_of(item.name, request.locked):
                    images[f"{item.name} {item.platform}"] = bases.known(item.name, item.platform)
        files: dict[str, str] = {}
        contexts = {
            name: _sum(sources, name, files)
            for name in ("", *sorted(request.contexts))
            if _local(request, name)
        }
    except DockerfileError as error:
        raise invalid(request.label, error) from error
    finally:
        sources.close()
    key = key_of(
        kind="build",
        dockerfile=data.decode("utf-8", "replace"),
        target=request.target,
        args=sorted(request.args.items()),
        labels=sorted(request.labels.items()),
        contexts=contexts,
        named=sorted(
            (name, "" if _local(request, name) else where) for name, where in request.contexts.items()
        ),
        context=request.context if not _local(request, "") else "",
        platforms=platforms_of(request.platforms),
        images=images,
        network=request.network,
        hosts=sorted(request.extra_hosts),
        shm=request.shm_size,
        ulimits=sorted(request.ulimits),
        epoch=request.epoch,
        **({"inline": True} if request.inline_cache else {}),
    )
    parts = {name: _short(data), "target": request.target, **files}
    parts |= {f"argument {key}": _short(value.encode()) for key, value in request.args.items()}
    parts |= {f"label {key}": _short(value.encode()) for key, value in request.labels.items()}
    parts |= {f"{BASE_PART}{image.rpartition(' ')[0]}": id for image, id in images.items()}
    return BuildInputs(key, parts if len(parts) <= MAX_PARTS else {})


def _short(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _local(request: BuildRequest, name: str) -> bool:
    where = request.contexts[name] if name else request.context
    return where.startswith("/")


def _sum(sources: Sources, name: str, files: dict[str, str]) -> str:
    """Of a whole context; the sum of each of its files goes into `files`."""
    source = sources.context(name).source
    total = hashlib.sha256()
    which = f"file of context {name}" if name else "context file"
    entries = tree.walk(source.root, "", source.seen)
    for path, line in source.sums.lines("", entries, source.owner):
        total.update(line)
        files[f"{which} {path}"] = _short(line)
    return total.hexdigest()
