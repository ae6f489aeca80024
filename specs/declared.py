"""Values: what the files of a source declare, by kind and full name, before it is resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from specs.desired import Place
from specs.load import dotted
from specs.parse import Document
from specs.positions import Path
from specs.problems import Problem, nearest
from specs.values import PortBinding


@dataclass(slots=True)
class Declared:
    """One table `[kind.name]`. `model` is None where it has problems; `rest` is what is right in it."""

    kind: str
    project: str
    name: str
    model: Any
    document: Document
    place: Place
    rest: Any = None
    variables: Mapping[str, str] = field(default_factory=dict)  # of its file
    resolved: str = ""  # of an image: its canonical reference
    waits_for: tuple[str, ...] = ()  # of a container: full names in depends_on
    inactive: tuple[str, ...] = ()  # of a container: its profiles, when none of them is asked for
    ports: dict[PortBinding, Path] = field(default_factory=dict)  # of a container: where each one stands

    @property
    def full(self) -> str:
        return f"{self.project}/{self.name}"

    def problem(self, path: Path, text: str, hint: str = "", *, at_key: bool = False) -> Problem:
        """`path` is from the table on."""
        whole = (self.kind, self.name, *path)
        if not path:
            at = self.place
            return Problem(at.file, at.line, at.column, f"{dotted(whole)}: {text}", hint)
        return self.document.problem(whole, f"{dotted(whole)}: {text}", hint, at_key=at_key)

    def item(self, path: Path, name: str) -> tuple[Path, bool]:
        """Path of `name` in a field that is a table or a list of names; (path, whether it is a key)."""
        value: Any = self.document.data
        for part in (self.kind, self.name, *path):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, list):
            return ((*path, value.index(name)) if name in value else path), False
        return (*path, name), True


class Index:
    """All declared things of a source."""

    def __init__(self) -> None:
        self._by_kind: dict[str, dict[str, Declared]] = {}

    def add(self, declared: Declared) -> Declared | None:
        """The one that has the name already, which stays, or None."""
        first = self._by_kind.setdefault(declared.kind, {}).setdefault(declared.full, declared)
        return first if first is not declared else None

    def get(self, kind: str, full: str) -> Declared | None:
        return self._by_kind.get(kind, {}).get(full)

    def all(self, kind: str) -> list[Declared]:
        """Sorted by full name."""
        return [one for _, one in sorted(self._by_kind.get(kind, {}).items())]

    def full_name(self, project: str, reference: str) -> str:
        return reference if "/" in reference else f"{project}/{reference}"

    def hint(self, kind: str, project: str, reference: str) -> str:
        """The nearest known name, as it is to be written in `project`."""
        return (
            nearest(reference, self._names(kind, project)) or f"declare [{kind}.{reference.split('/')[-1]}]"
        )

    def _names(self, kind: str, project: str) -> Iterator[str]:
        for full, declared in self._by_kind.get(kind, {}).items():
            yield declared.name if declared.project == project else full
