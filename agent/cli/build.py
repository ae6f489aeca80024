"""Effects: `stead build`: an image from a Dockerfile and a context."""

from __future__ import annotations

import argparse
import sys

from agent.cli.builds import again
from agent.cli.main import Problem, need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from agent.cli.builds.show import Shown
    from runtime.build.request import BuildRequest, BuildResult
    from runtime.paths import Paths


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("context", metavar="PATH|URL|-", help="directory, git repository, or an archive on standard input")
    add(
        "-t", "--tag", action="append", default=[], metavar="NAME[:TAG]", help="name of the image; repeatable"
    )
    add("-f", "--file", default="", metavar="FILE", help="the Dockerfile; - reads it from standard input")
    add("--target", default="", metavar="STAGE", help="the stage to build")
    add(
        "--build-arg", action="append", default=[], metavar="NAME[=VALUE]", help="value of an ARG; repeatable"
    )
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="label of the image; repeatable")
    add("--secret", action="append", default=[], metavar="id=ID[,src=FILE|,env=NAME]", help="for RUN --mount")
    add("--ssh", action="append", default=[], metavar="default|ID[=SOCKET]", help="an agent for RUN --mount")
    add("--no-cache", action="store_true", help="do every step anew")
    add("--no-cache-filter", action="append", default=[], metavar="STAGE", help="do a stage's steps anew")
    add("--pull", action="store_true", help="look for newer base images")
    add("--platform", action="append", default=[], metavar="OS/ARCH[,...]", help="what to build for")
    add("--settings", metavar="FILE", help="settings (default: /etc/stead/stead.toml if there)")
    text = "where the result goes: a directory, or type=image|local|tar|oci|docker|registry,dest=PATH"
    add("-o", "--output", action="append", default=[], metavar="OUTPUT", help=text)
    add("--push", action="store_true", help="push the image to the registry of its name")
    add("--load", action="store_true", help="keep the image in the store, which is the default")
    kinds = ("auto", "plain", "tty", "quiet", "rawjson")
    add("--progress", default="auto", choices=kinds, help="how the build is shown (auto)")
    add("-q", "--quiet", action="store_true", help="print the image's id only")
    add("--iidfile", default="", metavar="FILE", help="write the image's id there")
    add("--metadata-file", default="", metavar="FILE", help="write what was built there, as JSON")
    add("--build-context", action="append", default=[], metavar="NAME=PATH|URL", help="a named context")
    add("--add-host", action="append", default=[], metavar="HOST:ADDRESS", help="a line of /etc/hosts in RUN")
    add("--network", default="default", metavar="default|none|host", help="network of RUN steps")
    add("--shm-size", default="", metavar="SIZE", help="size of /dev/shm in RUN steps")
    add("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="limit of RUN's processes")
    add("-m", "--memory", default="", metavar="SIZE", help="memory limit of each RUN step")
    add("--cpus", type=float, default=0.0, metavar="NUMBER", help="CPU limit of each RUN step")
    add("--pids-limit", type=int, default=0, metavar="NUMBER", help="process limit of each RUN step")
    text = "an image whose steps may be used, of this machine or a registry"
    add("--cache-from", action="append", default=[], metavar="NAME|type=registry,ref=NAME", help=text)
    add("--cache-to", action="append", default=[], metavar="type=inline", help="keep the steps in the image")
    # what docker's command has, and is taken without a use: no attestation is made
    for name in ("--provenance", "--sbom", "--attest"):
        add(name, action="append", default=[], help=argparse.SUPPRESS)
    for name in ("--rm", "--force-rm"):
        add(name, action="store_true", help=argparse.SUPPRESS)
    add("--check", action="store_true", help="look for problems of the Dockerfile and build nothing")


def run(options: argparse.Namespace, paths: Paths) -> int:
    need_root()
    if (done := again.by_recipe(options, paths)) is not None:
        return done
    import signal
    import threading

    from agent.cli.builds import arguments, show
    from agent.cli.images import store

    request = arguments.request(options)
    if options.check:
        return _check(request)
    shown = show.chosen("quiet" if options.quiet else options.progress)
    cancelled = threading.Event()
    before = {number: signal.signal(number, _once(cancelled)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = _build(options, paths, request, shown, cancelled)
    finally:
        shown.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    if result is None:
        print("stead: the build was cancelled", file=sys.stderr)
        return 130
    _report(options, result)
    again.remember(options, paths, result, shown)
    store.wake_agent(paths)
    return 0


# ---------------------------------------------------------------- a build


def _build(
    options: argparse.Namespace,
    paths: Paths,
    request: BuildRequest,
    shown: Shown,
    cancelled: threading.Event,
) -> BuildResult | None:
    """None: cancelled."""
    from agent.cli.builds import rooms, show
    from runtime.build.executor import Cancelled
    from runtime.build.failure import StepFailed

    with rooms.opened(options, paths) as builder:
        try:
            return builder.build(request, shown.event, cancelled)
        except Cancelled:
            return None
        except StepFailed as failed:
            shown.close()
            if failed.tail:
                print(show.failure(failed), file=sys.stderr)
            raise


def _once(cancelled: threading.Event) -> Callable[[int, object], None]:
    """The first signal lets the build end by itself, a second one ends the command."""

    def handler(number: int, _frame: object) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        cancelled.set()

    return handler


def _check(request: BuildRequest) -> int:
    """Every problem and warning of the Dockerfile, or of what the target needs."""
    from pathlib import Path

    from runtime.build import graph
    from runtime.build.dockerfile import parse
    from runtime.build.problems import DockerfileError
    from runtime.build.rehearsal import rehearse
    from runtime.images.manifests import host_platform

    data = request.dockerfile_text
    if data is None:
        path = Path(request.context, request.dockerfile)
        if not path.is_file():
            raise Problem(f"cannot read {path}: no such file")
        data = path.read_bytes()
    try:
        file = parse(data, request.dockerfile_name or request.dockerfile)
        planned = graph.plan(
            file,
            build_platform=str(host_platform()),
            target_platform=",".join(request.platforms[:1]),
            target=request.target,
            args=request.args,
            contexts=request.contexts.keys(),
        )
        warnings = rehearse(planned, {}, every=not request.target)
    except DockerfileError as error:
        print(error, file=sys.stderr)
        return 1
    for warning in warnings:
        print(warning)
    if not warnings:
        print("no warnings found")
    return 0


def _report(options: argparse.Namespace, result: BuildResult) -> None:
    import json
    from pathlib import Path

    if options.quiet:
        print(result.image_id)
    if options.iidfile:
        Path(options.iidfile).write_text(result.image_id)
    if options.metadata_file:
        document = {
            "containerimage.config.digest": result.image_id,
            "image.name": ",".join(result.names),
            "stead.images": dict(result.images),
            "stead.steps": result.steps,
            "stead.steps.cached": result.cached_steps,
            "buildx.build.warnings": list(result.warnings),
        }
        Path(options.metadata_file).write_text(json.dumps(document, indent=2) + "\n")
