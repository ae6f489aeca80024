"""What holds for every test: how long an example of Hypothesis takes says nothing on a loaded machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("loaded", deadline=None)
settings.load_profile("loaded")
