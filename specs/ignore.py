"""Decisions: which files of a source are specs. `.steadignore` has gitignore's syntax (man gitignore)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

IGNORE_FILE = ".steadignore"
SPEC_ENDINGS = (".toml", ".yaml", ".yml")
#: Which digest each tag stands for; at the root of a source.
LOCK_FILE = "stead.lock.toml"
COMPOSE_FILES = frozenset({"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"})


class Ignored:
    """The rules of every `.steadignore` of a source, by directory; deeper ones and later lines win."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._rules: dict[str, list[tuple[bool, bool, re.Pattern[str]]]] = {}
        for path, content in files.items():
            if posixpath.basename(path) == IGNORE_FILE:
                rules = [r for line in content.decode(errors="replace").splitlines() if (r := _rule(line))]
                self._rules[posixpath.dirname(path)] = rules

    def __contains__(self, path: str) -> bool:
        """Whether `path`, or a directory above it, is excluded."""
        if not self._rules:
            return False
        parts = path.split("/")
        return any(self._excluded("/".join(parts[:i]), i < len(parts)) for i in range(1, len(parts) + 1))

    def _excluded(self, path: str, is_directory: bool) -> bool:
        excluded = False
        parts = path.split("/")
        for depth in range(len(parts)):
            base = "/".join(parts[:depth])
            relative = "/".join(parts[depth:])
            for negated, directory_only, pattern in self._rules.get(base, ()):
                if (is_directory or not directory_only) and pattern.match(relative):
                    excluded = not negated
        return excluded


def _rule(line: str) -> tuple[bool, bool, re.Pattern[str]] | None:
    line = re.sub(r"(?<!\\) +\Z", "", line.rstrip("\r\n"))
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    line = line[1:] if negated else line
    directory_only = line.endswith("/")
    line = line.rstrip("/")
    if not line:
        return None
    anchored = "/" in line
    pattern = _translate(line.removeprefix("/"))
    try:
        return negated, directory_only, re.compile(("" if anchored else "(?:.*/)?") + pattern + r"\Z")
    except re.error:  # a class such as [z-a] matches nothing
        return None


def _translate(glob: str) -> str:
    out, at = "", 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
            out, at = out + "(?:.*/)?", at + 3
        elif glob.startswith("**", at) and at + 2 == len(glob) and (at == 0 or glob[at - 1] == "/"):
            out, at = out + ".*", at + 2
        elif char == "*":
            out, at = out + "[^/]*", at + 1
        elif char == "?":
            out, at = out + "[^/]", at + 1
        elif char == "[" and (end := glob.find("]", at + 2)) > 0:
            inside = glob[at + 1 : end].replace("\\", "\\\\")
            out, at = out + "[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]", end + 1
        elif char == "\\" and at + 1 < len(glob):
            out, at = out + re.escape(glob[at + 1]), at + 2
        else:
            out, at = out + re.escape(char), at + 1
    return out


def spec_files(files: Mapping[str, bytes]) -> list[str]:
    """Paths of the spec files, sorted. A name that begins with `.` or `_`, of a directory too, hides it."""
    ignored = Ignored(files)
    return sorted(
        path
        for path in files
        if path.lower().endswith(SPEC_ENDINGS)
        and posixpath.basename(path) != LOCK_FILE
        and is_read(path, ignored)
    )


def is_read(path: str, ignored: Ignored) -> bool:
    return not any(part[:1] in (".", "_") for part in path.split("/")) and path not in ignored
