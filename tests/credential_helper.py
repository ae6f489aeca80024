"""A credential helper as docker's: what it is told is kept in a directory, what it is called with in a
file.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = """#!{python} -IS
import json, os, sys, urllib.parse
place = {place!r}
given = sys.stdin.read()
with open(place + "/calls", "a") as calls:
    calls.write(json.dumps([sys.argv[1:], given]) + "\\n")
def at(host):
    return place + "/" + urllib.parse.quote(host, safe="")
verb = sys.argv[1]
if verb == "store":
    open(at(json.loads(given)["ServerURL"]), "w").write(given)
elif verb == "get":
    try:
        print(open(at(given)).read())
    except FileNotFoundError:
        print("credentials not found in native keychain")
        sys.exit(1)
elif verb == "erase":
    os.unlink(at(given))
"""


def install(directory: Path, name: str = "box") -> Path:
    """The directory to put on the path."""
    place = directory / "kept"
    place.mkdir(parents=True)
    program = directory / f"docker-credential-{name}"
    program.write_text(PROGRAM.format(python=sys.executable, place=str(place)))
    program.chmod(0o755)
    return directory
