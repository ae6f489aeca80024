"""Values: where state is kept unless told otherwise. Text, since to import pathlib takes as long as to start
Python does."""

from __future__ import annotations

ROOT = "/var/lib/stead"
RUN = "/run/stead"
