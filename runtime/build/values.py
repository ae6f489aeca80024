"""Values: the base of frozen classes that cost nothing to define.

A build that finds everything in the cache is over in some 50 ms. The dataclass decorator compiles five
methods for each class, 0.7 ms of it: the sixty classes that a Dockerfile is read into took longer than the
build. A subclass of Value looks and behaves like a frozen dataclass, and type checkers take it for one
(PEP 681); its methods are those of this file, which read the names of its fields when they are called.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, dataclass_transform

T = TypeVar("T", bound="Value")


@dataclass_transform(frozen_default=True, order_default=False)
class Value:
    """Fields are the annotated names, of base classes first; with `kw_only` they are given by name.

    Equal: the same class and fields. Ordered by fields. Hashable when the fields are. Defaults are shared,
    so they are immutable.
    """

    _names: ClassVar[tuple[str, ...]] = ()
    _positional: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, kw_only: bool = False) -> None:
        annotated = cls.__dict__.get("__annotations__", ())  # noqa: RUF063  (inspect takes 20 ms to import)
        own = [name for name in annotated if name not in cls._names]
        cls._names = (*cls._names, *own)
        defaults = {name: cls.__dict__[name] for name in own if name in cls.__dict__}
        cls._defaults = {**cls._defaults, **defaults}
        cls._positional = cls._positional if kw_only else (*cls._positional, *own)

    def __init__(self, *given: Any, **named: Any) -> None:
        values = self.__dict__
        values.update(self._defaults)
        values.update(zip(self._positional, given, strict=False))
        values.update(named)
        if len(given) > len(self._positional) or len(values) != len(self._names):
            wrong = sorted(values.keys() ^ set(self._names)) or "too many by position"
            raise TypeError(f"{type(self).__name__} has the fields {self._names}; wrong or missing: {wrong}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be taken away")

    def _key(self) -> tuple[Any, ...]:
        return tuple(self.__dict__[name] for name in self._names)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __lt__(self, other: Any) -> bool:
        return self._key() < other._key() if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._names)
        return f"{type(self).__name__}({fields})"


def replace(value: T, **changes: Any) -> T:
    """A copy with some fields changed, as dataclasses.replace. Raises TypeError for a field that is none."""
    return type(value)(**{**value.__dict__, **changes})
