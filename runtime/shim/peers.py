"""Effects: the address of a container on the same networks, by its name. A shim asks no name server; it reads
what the name server is told: names.json in the live directory of each container.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = "names.json"
SHORT_ID = 12
#: Bytes of a names.json.
MAX_SIZE = 1 << 20


class Hosts(dict[str, str]):
    """What a hosts file says; a name that is not in it is looked for among peers."""

    def __init__(self, said: dict[str, str], live: str) -> None:
        super().__init__(said)
        self._live = live

    def get(self, name: str, default: str) -> str:  # type: ignore[override]
        return super().get(name) or find(self._live, name) or default


def find(live: str, name: str) -> str:
    """The address of the container that is called `name` (also an alias, or its short id) on a network of the
    container of `live`; empty when there is none."""
    networks = {str(item.get("network")) for item in _endpoints(live)}
    directory = os.path.dirname(live)
    for other in sorted(os.listdir(directory)) if networks else ():
        document = _read(f"{directory}/{other}")
        called = {str(document.get("name")).rpartition("/")[2], other[:SHORT_ID]}
        for item in document.get("endpoints") or ():
            if item["network"] in networks and (name in called or name in item["aliases"]):
                return str(item["addresses"][0])
    return ""


def _endpoints(live: str) -> list[dict[str, Any]]:
    return list(_read(live).get("endpoints") or ())


def _read(live: str) -> dict[str, Any]:
    """Empty where there is no such file, or one that cannot be read. Of any version: names and addresses are
    where they were, and a shim outlives the release that started it."""
    try:
        with open(f"{live}/{NAMES}", "rb") as file:
            document = json.loads(file.read(MAX_SIZE))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
