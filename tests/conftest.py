"""What holds for every test: how long Hypothesis takes for an example, and to make one up, says nothing on a
loaded machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")
