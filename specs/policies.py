"""Values: what a person writes about a container's conduct: health, limits, logging, restarts, updates.

pydantic models; unknown keys are problems. A field marked `later(...)` has its shape checked and is
then refused with "not supported yet", unless it is empty or false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from specs import pairs, shapes
from specs.pairs import StringMap
from specs.shapes import (
    NOT_YET,
    CpuCount,
    Flag,
    Mistake,
    ProbeDelay,
    ProbeSeconds,
    Seconds,
    Size,
    SomeSeconds,
    Text,
    Texts,
    one_of,
    whole,
)
from specs.values import parse_port_range


class Model(BaseModel):
    """All documents: nothing unknown is let through, but the writer's own keys, which begin with `x-`.

    A null is the same as a key that is left out.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra={"patternProperties": {"^x-": {}}},
    )

    @model_validator(mode="before")
    @classmethod
    def _without_own_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not any(str(key).startswith("x-") for key in data):
            return data
        return {key: value for key, value in data.items() if not str(key).startswith("x-")}

    def refused(self) -> Iterator[tuple[str, ...]]:
        """Keys (as written) whose effect comes later, of this model only."""
        for name in self.model_fields_set:
            field = type(self).model_fields[name]
            if field.json_schema_extra is not None and getattr(self, name) not in (
                None,
                False,
                "",
                (),
                [],
                {},
            ):
                yield (field.alias or name,)


def form(value: Any) -> str:
    """The tag of a field with a short form (a scalar) and a long one (a table)."""
    return "@long" if isinstance(value, dict | Model) else "@short"


WHICH = Discriminator(form)


def later(default: Any = None, **more: Any) -> Any:
    return Field(default, description=NOT_YET, json_schema_extra={"x-supported": False}, **more)


# ---------------------------------------------------------------- health

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _test(value: Any) -> tuple[str, ...]:
    """("NONE",), ("CMD", program, ...) or ("CMD-SHELL", line)."""
    if isinstance(value, str):
        return ("CMD-SHELL", value)
    found: tuple[str, ...] = shapes.listed(shapes.text)(value)
    if not found:
        raise Mistake('a test is not empty: write ["CMD", "program", ...], text for a shell, or ["NONE"]')
    if found[0] == "NONE" and len(found) == 1:
        return found
    if (found[0] == "CMD" and len(found) > 1) or (found[0] == "CMD-SHELL" and len(found) == 2):
        return found
    raise Mistake(
        'a test begins with "CMD", "CMD-SHELL" or "NONE"', f'did you mean ["CMD", "{found[0]}", ...]?'
    )


def _http(value: Any) -> str:
    found = shapes.text(value)
    read = re.fullmatch(r"https?://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]*)(?::([0-9]{1,5}))?(/\S*)?", found)
    if read is None:
        raise Mistake(f"cannot read {found!r}: write http://:PORT/PATH")
    if read[2]:
        parse_port_range(read[2])
    return found


def _tcp(value: Any) -> str:
    found = shapes.text(value)
    host, _, port = found.rpartition(":")
    if not re.fullmatch(r"\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]*", host):
        raise Mistake(f"cannot read {found!r}: write :PORT or HOST:PORT")
    ports = parse_port_range(port)
    if len(ports) != 1:
        raise Mistake(f"cannot read {found!r}: write one port")
    return f"{host}:{port}"


def _headers(value: Any) -> dict[str, str]:
    """RFC 9110, section 5.1: names are tokens, and nothing breaks a line."""
    found = pairs.mapping(value)
    for name, content in found.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
            raise Mistake(f"{name!r} is not a header's name")
        if re.search(r"[\r\n\0]", content):
            raise Mistake(f"the header {name} is one line")
    return found


def _statuses(value: Any) -> str:
    """200, "200-299", "200-299,401" or a list of such: as text, without spaces."""
    parts = [str(item).strip() for item in value] if isinstance(value, list) else str(value).split(",")
    for part in parts:
        found = re.fullmatch(r" *([1-5][0-9]{2})(?:-([1-5][0-9]{2}))? *", part)
        if found is None or (found[2] and found[2] < found[1]):
            raise Mistake(f"cannot read {value!r}: write a status such as 204, or 200-299,401")
    return ",".join(part.strip() for part in parts)


class HealthPhase(Model):
    """One probe; exactly one of test, http and tcp, or none for the image's own test."""

    test: (
        Annotated[
            tuple[str, ...],
            BeforeValidator(_test),
            WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        ]
        | None
    ) = None
    http: Annotated[str, BeforeValidator(_http), WithJsonSchema({"type": "string"})] | None = None
    tcp: Annotated[str, BeforeValidator(_tcp), WithJsonSchema({"type": ["string", "integer"]})] | None = None
    interval: ProbeSeconds | None = None
    timeout: ProbeSeconds | None = None
    retries: Annotated[int, *whole(1, 10_000)] | None = None
    start_period: ProbeDelay | None = None
    start_interval: ProbeSeconds | None = None
    method: Annotated[str, *one_of(*METHODS)] | None = None
    headers: Annotated[dict[str, str], *shapes.shape(_headers, {"type": "object"})] | None = None
    expect_status: (
        Annotated[
            str,
            BeforeValidator(_statuses),
            WithJsonSchema({"type": ["string", "integer", "array"]}),
        ]
        | None
    ) = None
    tls_verify: Flag | None = None


class Healthcheck(HealthPhase):
    disable: Flag | None = None
    on_failure: Annotated[str, *one_of("restart", "stop", "none")] | None = None
    startup: HealthPhase | None = None
    readiness: HealthPhase | None = None


# ---------------------------------------------------------------- restarts and updates


class RestartBackoff(Model):
    initial: SomeSeconds | None = None
    max: SomeSeconds | None = None
    reset_after: SomeSeconds | None = None


class Update(Model):
    order: Annotated[str, *one_of("stop-first", "start-first")] | None = None
    parallelism: Annotated[int, *whole(0, 10_000)] | None = None
    delay: Seconds | None = None
    monitor: Seconds | None = None
    drain: Seconds | None = None
    failure_action: Annotated[str, *one_of("pause", "continue", "rollback")] | None = None
    max_failure_ratio: CpuCount | None = None


class RestartPolicy(Model):
    """Compose's deploy.restart_policy."""

    condition: Annotated[str, *one_of("none", "on-failure", "any")] | None = None
    delay: SomeSeconds | None = None
    max_attempts: Annotated[int, *whole(0, 1_000_000)] | None = None
    window: SomeSeconds | None = None


# ---------------------------------------------------------------- resources


class IoDevice(Model):
    """Limits of one block device, in bytes and operations a second."""

    device: Annotated[
        str,
        BeforeValidator(lambda value: _block_device(value)),
        WithJsonSchema({"type": "string", "description": "/dev/NAME or MAJOR:MINOR"}),
    ]
    read_bps: Size | None = None
    write_bps: Size | None = None
    read_iops: Annotated[int, *whole(1, 2**40)] | None = None
    write_iops: Annotated[int, *whole(1, 2**40)] | None = None


def _block_device(value: Any) -> str:
    found = shapes.text(value)
    if not re.fullmatch(r"/dev/\S+|[0-9]+:[0-9]+", found):
        raise Mistake(f"cannot read device {found!r}: write /dev/NAME or MAJOR:MINOR")
    return found


class DeployLimits(Model):
    cpus: CpuCount | None = None
    memory: shapes.Memory | None = None
    pids: Annotated[int, *whole(-1, 2**22)] | None = None


class DeviceRequest(Model):
    """Compose's request for devices such as GPUs."""

    capabilities: Texts
    driver: Text | None = None
    count: Annotated[str | int, BeforeValidator(lambda v: _count(v))] | None = None
    device_ids: Texts | None = None
    options: StringMap | None = None


def _count(value: Any) -> str | int:
    return "all" if value == "all" else shapes.integer(0, 1000)(value)


class DiscreteResource(Model):
    kind: Text
    value: Annotated[int, *whole(0, 2**63 - 1)]


class GenericResource(Model):
    discrete_resource_spec: DiscreteResource | None = None


class DeployReservations(Model):
    cpus: CpuCount | None = None  # of no effect: nothing is scheduled
    memory: Size | None = None
    devices: list[DeviceRequest] | None = later()
    generic_resources: list[GenericResource] | None = later()


class DeployResources(Model):
    limits: DeployLimits | None = None
    reservations: DeployReservations | None = None


class PlacementPreference(Model):
    spread: Text


class Placement(Model):
    constraints: Texts | None = None
    preferences: list[PlacementPreference] | None = None
    max_replicas_per_node: Annotated[int, *whole(0, 10_000)] | None = None


class Deploy(Model):
    """Compose's deploy; the flat fields of a container mean the same."""

    mode: Annotated[str, *one_of("replicated", not_yet=("global", "replicated-job", "global-job"))] | None = (
        None
    )
    replicas: Annotated[int, *whole(0, 1000)] | None = None
    resources: DeployResources | None = None
    restart_policy: RestartPolicy | None = None
    labels: StringMap | None = None  # of no effect: they are the service's, not its containers'
    update_config: Update | None = None
    rollback_config: Update | None = None
    placement: Placement | None = later()
    endpoint_mode: Annotated[str, *one_of("vip", "dnsrr")] | None = None  # of no effect


class UlimitRange(Model):
    soft: Annotated[int, *whole(-1, 2**63 - 1)]
    hard: Annotated[int, *whole(-1, 2**63 - 1)]


Ulimit = Annotated[int, *whole(-1, 2**63 - 1)]
UlimitItem = Annotated[Annotated[Ulimit, Tag("@short")] | Annotated[UlimitRange, Tag("@long")], WHICH]
UlimitName = Annotated[
    str, *shapes.shape(shapes.choice(*shapes.ULIMITS), {"type": "string", "enum": list(shapes.ULIMITS)})
]
Ulimits = dict[UlimitName, UlimitItem]


class LogOptions(Model):
    max_size: Size | None = Field(None, alias="max-size")
    max_file: Annotated[int, *whole(1, 1000)] | None = Field(None, alias="max-file")
    mode: Annotated[str, *one_of("blocking", "non-blocking")] | None = None
    max_buffer_size: Size | None = Field(None, alias="max-buffer-size")
    tag: Text | None = None
    syslog_address: Text | None = Field(None, alias="syslog-address")
    syslog_facility: Text | None = Field(None, alias="syslog-facility")
    syslog_format: Annotated[str, *one_of("rfc3164", "rfc5424", "rfc5424micro")] | None = Field(
        None, alias="syslog-format"
    )


class Logging(Model):
    driver: (
        Annotated[
            str,
            *one_of(
                "json-file",
                "local",
                "journald",
                "syslog",
                "none",
                not_yet=("gelf", "fluentd", "awslogs", "splunk"),
            ),
        ]
        | None
    ) = None
    options: LogOptions | None = None


# ---------------------------------------------------------------- images

_NAMES: dict[str, Any] = {"type": "array", "items": {"type": "string"}}


class BuildSecret(Model):
    source: Text
    target: Text | None = None
    uid: Text | None = None  # of no effect, as in Compose: the Dockerfile says whose it is and how
    gid: Text | None = None
    mode: shapes.Mode | None = None


BuildSecretItem = Annotated[Annotated[Text, Tag("@short")] | Annotated[BuildSecret, Tag("@long")], WHICH]


class Build(Model):
    """Compose's build section."""

    context: Text | None = None
    dockerfile: Text | None = None
    dockerfile_inline: Text | None = None
    target: Text | None = None
    args: (
        Annotated[dict[str, str | None], *shapes.shape(pairs.environment, {"type": ["object", "array"]})]
        | None
    ) = None
    labels: StringMap | None = None
    cache_from: Texts | None = None
    cache_to: Texts | None = None
    additional_contexts: StringMap | None = None
    extra_hosts: pairs.ExtraHosts | None = None
    network: Text | None = None
    no_cache: Flag | None = None
    platforms: Annotated[tuple[str, ...], *shapes.shape(shapes.listed(shapes.platform), _NAMES)] | None = None
    privileged: Flag | None = later()
    pull: Flag | None = None
    secrets: list[BuildSecretItem] | None = None
    shm_size: Size | None = None
    ssh: StringMap | None = None
    tags: Annotated[tuple[str, ...], *shapes.shape(shapes.listed(shapes.image_reference), _NAMES)] | None = (
        None
    )
    ulimits: Ulimits | None = None
