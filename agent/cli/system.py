"""Values: `stead system`: the commands about all that this machine keeps."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "info": ("info", "say what this machine has for containers, and how many there are", "stead system info"),
    "df": ("df", "show what of the disk is used for what", "stead system df -v"),
}
