"""Effects: containers as the database, their shims and their files have them, for ps and inspect.

Cheap to import, and reads no more than it is asked for: the rest is read when it is looked at.
"""

from __future__ import annotations

import json
from functools import cached_property

from runtime import attend, frozen
from runtime.faults import Fault
from runtime.shim import client
from runtime.shim.supervise import FINAL, is_crash_loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from runtime.net.records import Lease
    from runtime.paths import Paths
    from runtime.records import ContainerRecord

#: phase (runtime.observations.Phase) -> docker's word
STATES = {
    "created": "created",
    "starting": "running",
    "running": "running",
    "paused": "paused",
    "backoff": "restarting",
    "stopping": "running",
    "exited": "exited",
    "stopped": "exited",
    "lost": "dead",
}


class Seen:
    """One container. `state` is what its shim says or last said; `live`: it has one, and that has
    more to do than to end."""

    def __init__(
        self,
        paths: Paths,
        record: ContainerRecord,
        ports: list[dict[str, Any]],
        images: dict[str, dict[str, Any]] | None = None,
        names: dict[str, str] | None = None,
    ) -> None:
        """`images` are configs by id that were read already, and grows; `names` are the ids that names of
        images mean, once they were read."""
        self.paths, self.record = paths, record
        self._names = {} if names is None else names
        self._images = {} if images is None else images
        state = attend.live_state(paths, record)
        self.live = state is not None and state.phase not in FINAL
        self.state = state or client.read_exit(paths.container(record.id))
        self.published = ports

    @cached_property
    def phase(self) -> str:
        """As runtime.observe finds it."""
        if self.live and self.state is not None:
            return frozen.phase(self.paths.live(self.record.id), self.state.phase)
        if self.record.wanted == "running":
            return "exited" if self.state is not None else "lost"
        return self.record.wanted

    @property
    def docker_state(self) -> str:
        """A container in a crash loop is restarting, also while it happens to run."""
        return "restarting" if self.crash_loop else STATES.get(self.phase, self.phase)

    @property
    def crash_loop(self) -> bool:
        return self.live and self.state is not None and is_crash_loop(self.phase, self.state.streak)

    @property
    def health(self) -> str:
        """starting, healthy, unhealthy; none where there is no probe, or nothing runs."""
        return self.state.health if self.live and self.state is not None and self.state.health else "none"

    @property
    def exit_code(self) -> int:
        return self.state.exit_code or 0 if self.state is not None else 0

    @property
    def ports(self) -> list[dict[str, Any]]:
        """Published ones, while it has a shim."""
        return self.published if self.live else []

    @cached_property
    def request(self) -> dict[str, Any]:
        """As it is kept: fields that equal their default are not there (runtime.requests)."""
        found: dict[str, Any] = json.loads(self.record.request)
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json of the last start; empty before the first, and where it cannot be read."""
        try:
            return attend.read_config(self.paths, self.record)
        except (FileNotFoundError, Fault):
            return {}

    @cached_property
    def image_config(self) -> dict[str, Any]:
        """The `config` of its image's config; empty where the image is gone."""
        from contextlib import closing

        from runtime.database import connect

        id = self.record.image_id
        if id not in self._images:
            with closing(connect(self.paths.database, readonly=True)) as connection:
                row = connection.execute("SELECT config FROM images WHERE id = ?", (id,)).fetchone()
            self._images[id] = (json.loads(row[0]).get("config") or {}) if row is not None else {}
        return self._images[id]

    @cached_property
    def leases(self) -> list[Lease]:
        from contextlib import closing

        from runtime.database import connect
        from runtime.net.records import read_leases

        with closing(connect(self.paths.database, readonly=True)) as connection:
            return read_leases(connection, container=self.record.id)

    @cached_property
    def anonymous(self) -> dict[str, str]:
        """Its anonymous volumes by target."""
        from contextlib import closing

        from runtime.database import connect
        from runtime.volumes.records import read_anonymous

        with closing(connect(self.paths.database, readonly=True)) as connection:
            return read_anonymous(connection, self.record.name)

    @property
    def names(self) -> dict[str, str]:
        """Full names of images -> ids."""
        if not self._names:
            from contextlib import closing

            from runtime.database import connect

            with closing(connect(self.paths.database, readonly=True)) as connection:
                self._names.update(connection.execute("SELECT reference, image FROM image_names").fetchall())
        return self._names

    @property
    def image(self) -> str:
        """As it was written on the command line; of what a source declares, as people write it."""
        return str(self.request.get("image_called") or familiar(self.record.image))

    @property
    def words(self) -> list[str]:
        """The program and its arguments, as they are or would be."""
        if self.config:
            return [str(word) for word in self.config["process"]["args"]]
        asked, image = self.request, self.image_config
        if asked.get("entrypoint") is not None:
            return [*asked["entrypoint"], *(asked.get("command") or ())]
        command = asked["command"] if asked.get("command") is not None else image.get("Cmd") or ()
        return [*(image.get("Entrypoint") or ()), *command]

    @property
    def labels(self) -> dict[str, str]:
        """Of the image and of the container, which win."""
        return {**(self.image_config.get("Labels") or {}), **(self.request.get("labels") or {})}

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """As asked for, and its anonymous volumes by their names."""
        asked = [dict(mount) for mount in self.request.get("mounts") or ()]
        for mount in asked:
            if mount.get("kind") == "volume" and not mount.get("source"):
                mount["source"] = self.anonymous.get(mount["target"], "")
        there = {mount["target"] for mount in asked}
        more = [
            {"kind": "volume", "source": volume, "target": target}
            for target, volume in sorted(self.anonymous.items())
            if target not in there
        ]
        return asked + more

    @property
    def networks(self) -> list[str]:
        mode = str(self.request.get("network_mode") or "bridge")
        return [lease.network for lease in self.leases] if mode == "bridge" else [mode]

    @property
    def exposed(self) -> list[str]:
        """ "80/tcp", of the image, of `expose`, and what is published."""
        from specs.values import parse_port_range

        asked = [str(port) for port in self.request.get("expose") or ()]
        found = {
            f"{number}/{protocol or 'tcp'}"
            for span, _, protocol in (port.partition("/") for port in asked)
            for number in parse_port_range(span)
        }
        found |= set(self.image_config.get("ExposedPorts") or ())
        return sorted(found, key=_port_key)


def familiar(image: str) -> str:
    return image.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _port_key(text: str) -> tuple[int, str]:
    port, _, protocol = text.partition("/")
    first = port.partition("-")[0]
    return (int(first) if first.isdigit() else 0, protocol)


def look(paths: Paths, records: Iterable[ContainerRecord]) -> list[Seen]:
    published = attend.read_ports(paths)
    images: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    return [Seen(paths, record, published.get(record.id, []), images, names) for record in records]
