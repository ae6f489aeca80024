"""Effects: what confines a container's programs beside its namespaces: the compiled system call filter and
the AppArmor profile, each made ready once."""

from __future__ import annotations

import threading
from pathlib import Path

from runtime import bundle
from runtime.faults import Fault, faults
from runtime.filters import filter_file
from runtime.linux.apparmor import DEFAULT, PROFILE, UNCONFINED, AppArmor
from runtime.paths import Paths, write_atomically
from runtime.wishes import ContainerRequest


class Confinement:
    """Thread-safe."""

    def __init__(self, paths: Paths, apparmor: AppArmor | None = None) -> None:
        self._paths = paths
        self._apparmor = apparmor or AppArmor()
        self._filters: dict[tuple[tuple[str, ...], str], Path] = {}
        self._loaded = False
        self._source = paths.run / "apparmor" / DEFAULT
        self._lock = threading.Lock()

    def filter(self, request: ContainerRequest, own: tuple[str, ...]) -> str:
        """The path of the compiled filter for its capabilities, of which this machine has `own`; or
        unconfined."""
        if request.privileged or request.seccomp_unconfined:
            return "unconfined"
        granted = tuple(sorted(set(bundle.capabilities(request, own)) & set(own)))
        key = (granted, request.seccomp_profile)
        with self._lock:
            found = self._filters.get(key)
            if found is None or not found.exists():
                with faults("compile seccomp filter for", request.name):
                    found = self._filters[key] = filter_file(self._paths.run, *key)
        return str(found)

    def profile(self, request: ContainerRequest) -> str:
        """The AppArmor profile that is loaded for it; empty for none. Ours where nothing else is asked for
        and this machine can have it. Fault request-invalid for one by name that is not there."""
        wanted = request.apparmor or (UNCONFINED if request.privileged else "")
        if wanted == UNCONFINED:
            return ""
        missing = self._apparmor.missing()
        if missing:
            if not wanted:
                return ""
            raise _refused(request, wanted, missing, "leave apparmor out")
        with faults("look at AppArmor for", request.name):
            if wanted in ("", DEFAULT):
                self._load()
                return DEFAULT
            if wanted not in self._apparmor.loaded():
                hint = f"load it: apparmor_parser -r /etc/apparmor.d/{wanted}"
                raise _refused(request, wanted, "no such profile is loaded", hint)
        return wanted

    def source(self, profile: str) -> str:
        """The file of a profile that is loaded, from which a shim loads it again; empty for one of others."""
        return str(self._source) if profile == DEFAULT else ""

    def _load(self) -> None:
        """Ours: anew once in the life of this process, which may be a newer release than the last one, and
        whenever it is gone."""
        with self._lock:
            if not self._loaded:
                self._source.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(self._source, PROFILE.encode(), durable=False)
            if not self._loaded or DEFAULT not in self._apparmor.loaded():
                self._apparmor.ensure_default(self._source)
                self._loaded = True


def _refused(request: ContainerRequest, profile: str, cause: str, hint: str) -> Fault:
    text = f"AppArmor profile {profile}: {cause}"
    return Fault("request-invalid", "start container", request.name, text, hint)
