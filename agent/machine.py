"""Effects: the runtime of this machine, opened as the settings say."""

from __future__ import annotations

from agent.settings import Settings
from runtime.images.store import RegistrySettings
from runtime.local import LocalRuntime
from runtime.paths import Paths


def open_runtime(paths: Paths, settings: Settings) -> LocalRuntime:
    """Who calls this closes it. Raises Fault when the state cannot be opened."""
    registries = {
        host: RegistrySettings(
            insecure=item.insecure,
            ca_file=item.ca_file,
            username=item.username,
            password_file=item.password_file,
            mirrors=tuple(item.mirrors),
        )
        for host, item in settings.registry.items()
    }
    return LocalRuntime(paths, registries=registries, pool=settings.network.pool)
