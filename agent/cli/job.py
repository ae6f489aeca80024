"""Values: `stead job`: the commands about jobs, a module each in agent/cli/jobs."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "ls": ("jobs.ls", "list jobs: when they ran, how it ended, when they run next", "stead job ls"),
    "history": ("jobs.history", "list the last runs of a job, newest last", "stead job history backup"),
    "run": ("jobs.run", "have a job run now", "stead job run --wait backup"),
}
