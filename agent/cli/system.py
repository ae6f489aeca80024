"""Values: `stead system`: the commands about all that this machine keeps."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "df": ("df", "show what of the disk is used for what", "stead system df -v"),
}
