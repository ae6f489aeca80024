"""Effects: `stead version`: which release this command is, on what, and which the agent is where one lives.

Needs neither an agent nor root: who may not ask the agent is told so.
"""

from __future__ import annotations

import os
import platform

from agent.cli import formatting, status
from agent.cli.main import Problem
from agent.process import release
from runtime.images.manifests import host_platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from runtime.paths import Paths

_TITLES = {
    "Version": "Version:",
    "PythonVersion": "Python version:",
    "Os": "OS/Arch:",
    "KernelVersion": "Kernel version:",
    "Pid": "Agent:",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--format", default="", metavar="FORMAT", help='"json" or a template')


def run(options: argparse.Namespace, paths: Paths) -> int:
    client = _client()
    server, missing = _server(paths, client)
    found = {"Client": client, "Server": server}
    if options.format:
        from agent.cli.template_functions import Written

        # of two releases the one that people ask for is mostly that of their own command
        print(formatting.one(Written({**client, **found}, found), options.format))
        return 0
    print("\n".join([*_section("Client", client), "", *_section("Server", server)]))
    if missing:
        print(f" {'Agent:':<19}{missing}")
    return 0


def _client() -> dict[str, Any]:
    kernel = os.uname()
    return {
        "Version": release(),
        "PythonVersion": platform.python_version(),
        "Os": kernel.sysname.lower(),
        "Arch": host_platform().architecture,
        "KernelVersion": kernel.release,
    }


def _server(paths: Paths, client: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(who does what commands ask for, why no agent is that): without one it is the command itself."""
    alone = {"Version": client["Version"], "Pid": 0}
    try:
        said = status.ask(paths, "/v1/status")
    except status.NoAgent:
        return alone, "none runs"
    except Problem as problem:
        return alone, f"not known: {problem}"
    from agent.lock import holder

    return {"Version": said["version"], "Pid": holder(paths)[0]}, ""


def _section(title: str, facts: dict[str, Any]) -> list[str]:
    lines = [f"{title}:"]
    for key, name in _TITLES.items():
        value = f"{facts['Os']}/{facts['Arch']}" if key == "Os" and key in facts else facts.get(key)
        if value:
            lines.append(f" {name:<19}{f'pid {value}' if key == 'Pid' else value}")
    return lines
