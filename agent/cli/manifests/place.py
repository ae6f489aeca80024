"""Effects: what the commands about indexes have in common: the runtime, and registries without TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from agent.cli import specs
from agent.cli.images import store
from agent.cli.main import need_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from agent.settings import Settings
    from runtime.local import LocalRuntime
    from runtime.paths import Paths
    from specs.values import ImageRef


def add_options(parser: argparse.ArgumentParser, *, insecure: bool = False) -> None:
    store.add_settings(parser)
    if insecure:
        text = "talk to these registries without TLS, or without checking their certificates"
        parser.add_argument("--insecure", action="store_true", help=text)


def settings_for(options: argparse.Namespace, refs: list[ImageRef]) -> Settings:
    """The settings, with the registries of these names as insecure ones where --insecure says so."""
    from agent.settings import Registry

    settings = specs.settings_of(options)
    if not getattr(options, "insecure", False):
        return settings
    known = dict(settings.registry)
    for ref in refs:
        known[ref.host] = known.get(ref.host, Registry()).model_copy(update={"insecure": True})
    return settings.model_copy(update={"registry": known})


@contextmanager
def opened(options: argparse.Namespace, paths: Paths, refs: list[ImageRef]) -> Iterator[LocalRuntime]:
    from agent.machine import open_runtime

    need_root()
    with closing(open_runtime(paths, settings_for(options, refs))) as runtime:
        yield runtime
