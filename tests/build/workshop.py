"""Effects: a context and the command `stead build` on it, for tests of more than one build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.build.cases import place
from tests.build.engines import Image, Stead


@dataclass(frozen=True)
class Report:
    """What a build said. `steps` are its instructions in their order, `anew` those that were done."""

    output: str
    steps: tuple[str, ...]
    anew: tuple[str, ...]


@dataclass
class Workshop:
    engine: Stead
    context: Path

    def write(self, files: Mapping[str, Any]) -> None:
        for name, given in files.items():
            path = self.context / name
            if path.is_symlink() or path.is_file():
                path.unlink()
            place(path, given)

    def build(self, *options: str, code: int = 0) -> Report:
        done = self.engine.call(options, self.context)
        assert done.code == code, done.output
        titles: dict[str, str] = {}
        ended: dict[str, str] = {}
        for line in done.output.splitlines():
            if match := re.fullmatch(r"#(\d+) \[[^\]]*\d+/\d+\] (.*)", line):
                titles[match[1]] = match[2]
            if (match := re.fullmatch(r"#(\d+) (CACHED|DONE .*|ERROR.*)", line)) and match[1] in titles:
                ended[titles[match[1]]] = match[2]
        anew = tuple(title for title, how in ended.items() if how != "CACHED")
        return Report(done.output, tuple(ended), anew)

    def id(self, name: str) -> str:
        done = self.engine.stead("image", "inspect", "--format", "{{.Id}}", name)
        assert done.code == 0, done.output
        return done.output.strip()

    def image(self, name: str) -> Image:
        return self.engine.image(name)
