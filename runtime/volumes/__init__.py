"""Volumes, and what a container's mounts become."""

from runtime.volumes.records import VOLUMES_SCHEMA, Volume
from runtime.volumes.store import Volumes

__all__ = ["VOLUMES_SCHEMA", "Volume", "Volumes"]
