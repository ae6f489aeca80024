"""Values: `stead builder`: the commands about the cache of builds, a module each in agent/cli/builds."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "du": ("builds.du", "list what the build cache has", "stead builder du"),
    "prune": ("builds.prune", "make the build cache smaller", "stead builder prune --filter until=24h"),
}
