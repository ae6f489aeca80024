"""Values: an image's config as a build changes it, read from and written as JSON.

Sources: OCI image-spec 1.1 config.md; docker image spec 1.3 for Healthcheck, OnBuild and Shell. What a base
image's config has besides is kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from runtime.build.values import Value, replace

MAX_HISTORY = 20_000  # entries

_EMPTY: Mapping[str, Any] = MappingProxyType({})
_KNOWN = frozenset(
    "Env Cmd Entrypoint Labels ExposedPorts Volumes WorkingDir User Healthcheck OnBuild Shell".split()
) | {"StopSignal"}
#: Keys of the whole config that this build decides about.
_OURS = frozenset("architecture os variant author created config history rootfs".split())
#: Docker's own keys about the container that an older build step ran in; they say nothing about the image.
_DROPPED = frozenset("container container_config docker_version id parent parent_id Size".split())
#: The steps by which an image was built (runtime.build.inline). Those of a base say nothing about the image.
CACHE = "stead.cache.v1"
_DROPPED |= {CACHE}


class HealthcheckConfig(Value):
    """`test`: NONE, or CMD or CMD-SHELL and its arguments. Nanoseconds; 0: the engine's default."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class History(Value):
    """One instruction. `created` is RFC 3339, None: not known yet (see `stamped`)."""

    created_by: str
    empty_layer: bool
    created: str | None = None
    comment: str = ""
    author: str = ""


class ImageConfig(Value):
    """Everything in the config but the layers. None: not set, which differs from empty for `cmd`.

    `extra` and `extra_config` are keys of a base image that no instruction sets.
    """

    os: str = "linux"
    architecture: str = ""
    variant: str = ""
    author: str = ""
    env: Mapping[str, str] = _EMPTY
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    labels: Mapping[str, str] = _EMPTY
    exposed_ports: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    working_dir: str = ""
    user: str = ""
    healthcheck: HealthcheckConfig | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    stop_signal: str = ""
    history: tuple[History, ...] = ()
    extra: Mapping[str, Any] = _EMPTY
    extra_config: Mapping[str, Any] = _EMPTY


def scratch(architecture: str, variant: str = "") -> ImageConfig:
    """What FROM scratch begins with."""
    return ImageConfig(architecture=architecture, variant=variant, working_dir="/")


def read_config(data: bytes) -> ImageConfig:
    """The config of a base image, as a registry or archive gave it. Raises ValueError."""
    try:
        whole = _object(json.loads(data), "config")
        config = _object(whole.get("config"), "config.config")
        return ImageConfig(
            os=_text(whole, "os") or "linux",
            architecture=_text(whole, "architecture"),
            variant=_text(whole, "variant"),
            author=_text(whole, "author"),
            env=_environment(config),
            cmd=_words_or_none(config, "Cmd"),
            entrypoint=_words_or_none(config, "Entrypoint"),
            labels=_labels(config),
            exposed_ports=frozenset(_object(config.get("ExposedPorts"), "ExposedPorts")),
            volumes=frozenset(_object(config.get("Volumes"), "Volumes")),
            working_dir=_text(config, "WorkingDir"),
            user=_text(config, "User"),
            healthcheck=_healthcheck(config),
            on_build=_words_or_none(config, "OnBuild") or (),
            shell=_words_or_none(config, "Shell") or (),
            stop_signal=_text(config, "StopSignal"),
            history=_history(whole),
            extra={k: v for k, v in whole.items() if k not in _OURS | _DROPPED},
            extra_config={k: v for k, v in config.items() if k not in _KNOWN},
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_config(config: ImageConfig, diff_ids: Sequence[str], created: str) -> bytes:
    """The JSON of an image with these layers (`sha256:…` of each tar, bottom first), made at `created`.

    The same arguments give the same bytes. History entries that have no time yet get `created`.
    """
    whole: dict[str, Any] = {
        **config.extra,
        "architecture": config.architecture,
        "os": config.os,
        "created": created,
        "config": _config(config),
        "history": [_entry(entry, created) for entry in config.history],
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    for key, text in (("variant", config.variant), ("author", config.author)):
        if text:
            whole[key] = text
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "replace"
    )


def stamped(config: ImageConfig, created: str) -> ImageConfig:
    """The history entries that have no time yet get `created`."""
    if not config.history or config.history[-1].created is not None:
        return config
    history = tuple(e if e.created is not None else replace(e, created=created) for e in config.history)
    return replace(config, history=history)


def _config(config: ImageConfig) -> dict[str, Any]:
    out: dict[str, Any] = {**config.extra_config}
    values: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in sorted(config.exposed_ports)},
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "Volumes": {path: {} for path in sorted(config.volumes)},
        "WorkingDir": config.working_dir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "OnBuild": list(config.on_build),
        "Shell": list(config.shell),
    }
    out.update((key, value) for key, value in values.items() if value)
    for key, words in (("Cmd", config.cmd), ("Entrypoint", config.entrypoint)):
        if words is not None:
            out[key] = list(words)
    if (health := config.healthcheck) is not None:
        numbers = {
            "Interval": health.interval,
            "Timeout": health.timeout,
            "StartPeriod": health.start_period,
            "StartInterval": health.start_interval,
            "Retries": health.retries,
        }
        out["Healthcheck"] = {"Test": list(health.test), **{k: n for k, n in numbers.items() if n}}
    return out


def _entry(entry: History, created: str) -> dict[str, Any]:
    values = {
        "created": created if entry.created is None else entry.created,
        "created_by": entry.created_by,
        "comment": entry.comment,
        "author": entry.author,
        "empty_layer": entry.empty_layer,
    }
    return {key: value for key, value in values.items() if value}


# ---------------------------------------------------------------- reading


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    return value


def _is_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} has a value that is not a string")
    return value


def _text(values: Mapping[str, Any], key: str) -> str:
    return _is_text(values.get(key) or "", key)


def _words_or_none(config: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, str):  # Cmd and Entrypoint of images from before 2014
        return (value,)
    if not isinstance(value, list):
        raise ValueError(f"{key} is not a list")
    return tuple(_is_text(word, key) for word in value)


def _environment(config: Mapping[str, Any]) -> dict[str, str]:
    pairs = (word.partition("=") for word in _words_or_none(config, "Env") or ())
    return {name: value for name, _, value in pairs}


def _labels(config: Mapping[str, Any]) -> dict[str, str]:
    found = _object(config.get("Labels"), "Labels")
    return {name: _is_text(value, "Labels") for name, value in found.items()}


def _number(values: Mapping[str, Any], key: str) -> int:
    value = values.get(key) or 0
    if not isinstance(value, int):
        raise ValueError(f"{key} is not a whole number")
    return value


def _healthcheck(config: Mapping[str, Any]) -> HealthcheckConfig | None:
    if (value := config.get("Healthcheck")) is None:
        return None
    health = _object(value, "Healthcheck")
    return HealthcheckConfig(
        _words_or_none(health, "Test") or (),
        _number(health, "Interval"),
        _number(health, "Timeout"),
        _number(health, "StartPeriod"),
        _number(health, "StartInterval"),
        _number(health, "Retries"),
    )


def _history(whole: Mapping[str, Any]) -> tuple[History, ...]:
    entries = whole.get("history") or []
    if not isinstance(entries, list) or len(entries) > MAX_HISTORY:
        raise ValueError(f"history is not a list of at most {MAX_HISTORY} entries")
    return tuple(
        History(
            created_by=_text(entry, "created_by"),
            empty_layer=bool(entry.get("empty_layer")),
            created=_text(entry, "created"),
            comment=_text(entry, "comment"),
            author=_text(entry, "author"),
        )
        for entry in (_object(entry, "history") for entry in entries)
    )
