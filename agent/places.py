"""Values: where things are on every machine. Imports nothing that takes time: commands look here first."""

from __future__ import annotations

from pathlib import Path

DEFAULT_SETTINGS = Path("/etc/stead/stead.toml")
