"""Effects: the runtime of this machine, opened as the settings say."""

from __future__ import annotations

import os

from agent.settings import Settings
from runtime.images.credentials import config_path
from runtime.images.registry import Registries
from runtime.images.store import RegistrySettings
from runtime.local import LocalRuntime
from runtime.paths import Paths


def open_runtime(paths: Paths, settings: Settings, *, stays: bool = False) -> LocalRuntime:
    """Who calls this closes it, and `stays` until then. Fault when it cannot be opened."""
    return LocalRuntime(
        paths,
        registries=registry_settings(settings),
        docker_config=config_path(settings.credentials.docker_config, os.environ),
        pool=settings.network.pool,
        pool6=settings.network.ipv6_pool,
        ids=settings.security.userns_user,
        stays=stays,
        shortcut=stays and settings.network.shortcut,
    )


def open_registries(settings: Settings) -> Registries:
    """What the runtime asks, without a store. Who calls this closes it."""
    config = config_path(settings.credentials.docker_config, os.environ)
    return Registries(registry_settings(settings), docker_config=config)


def registry_settings(settings: Settings) -> dict[str, RegistrySettings]:
    """By host."""
    return {
        host: RegistrySettings(
            insecure=item.insecure,
            ca_file=item.ca_file,
            username=item.username,
            password_file=item.password_file,
            mirrors=tuple(item.mirrors),
            cert_file=item.cert_file,
            key_file=item.key_file,
        )
        for host, item in settings.registry.items()
    }
