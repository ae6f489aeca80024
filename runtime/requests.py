"""Values: the JSON in which a request is kept.

It leaves out fields equal to their default: a later release with more fields reads an older record and finds
the defaults; an older release ignores fields that it does not know.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache, lru_cache
from typing import Any

from runtime.wishes import ContainerRequest
from specs.values import ImageRef

_PLAIN = frozenset({str, int, float, bool, type(None)})


def encode_request(request: ContainerRequest) -> str:
    return json.dumps(encode(request), separators=(",", ":"), sort_keys=True)


@lru_cache(maxsize=64)
def decode_request(text: str) -> ContainerRequest:
    request = decode(ContainerRequest, json.loads(text))
    assert isinstance(request, ContainerRequest)
    return request


def encode(value: Any) -> Any:
    """Frozen dataclasses, mappings, tuples and scalars as JSON data; fields that equal their default
    are left out.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is ImageRef:
        return str(value)
    if is_dataclass(kind):
        items = ((name, getattr(value, name), default) for name, default in _defaults(kind))
        return {name: encode(item) for name, item, default in items if item != default}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


@cache
def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    """Field and default; MISSING, which equals nothing else, where it has none. None is ever
    changed."""
    return tuple((field.name, _default(field)) for field in fields(kind))


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def decode(kind: Any, data: Any) -> Any:
    """The inverse of `encode` for a type annotation. Unknown keys are ignored, missing ones keep
    their default.
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        (kind,) = (arg for arg in typing.get_args(kind) if arg is not type(None))
        return decode(kind, data)
    if origin is tuple:
        args = typing.get_args(kind)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(decode(args[0], item) for item in data)
        return tuple(decode(arg, item) for arg, item in zip(args, data, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return types.MappingProxyType(dict(data))
    if kind is ImageRef:
        return ImageRef.parse(data)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{key: decode(hints[key], item) for key, item in data.items() if key in hints})
    return kind(data) if kind in (int, float, str, bool) else data
