"""`stead schema` accepts what the models accept and refuses what they refuse."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from specs.documents import SpecFile
from specs.parse import parse
from specs.schema import json_schema

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def valid(data: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid(data))


def container(body: str) -> dict[str, Any]:
    return tomllib.loads(f'[container.c]\nimage = "a"\n{body}\n')


def test_it_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_it_accepts_every_example() -> None:
    found = [path for path in EXAMPLES.rglob("*") if path.suffix in (".toml", ".yaml", ".yml")]
    assert found
    for path in found:
        documents, problems = parse(path.name, path.read_bytes())
        assert problems == []
        for document in documents:
            VALIDATOR.validate(document.data)


@pytest.mark.parametrize(
    "body",
    [
        'command = "a"\nentrypoint = ["a", 1]',
        "environment = { A = 1, B = true }",
        'environment = ["A=1"]',
        'ports = ["80:80", { target = 80, published = 80 }]',
        'volumes = ["a:/b", { type = "tmpfs", target = "/x", tmpfs = { size = "1m", mode = 0o755 } }]',
        'networks = ["a"]\ndepends_on = ["b"]',
        'networks = { a = { aliases = ["x"] } }\ndepends_on = { b = "healthy", c = { restart = false } }',
        'env_file = "a.env"\ntmpfs = "/x"\ndns = "1.1.1.1"',
        'env_file = ["a.env", { path = "b", required = false }]',
        'healthcheck = { test = ["CMD", "a"], interval = "1s", retries = 3 }',
        'memory = "1g"\nmemory_swap = -1\ncpus = 0.5\npids = 5\nshm_size = 64000000',
        'restart = "on-failure:3"\nstop_signal = 15\nread_only = true',
        "ulimits = { nofile = 5, core = { soft = 0, hard = 0 } }",
        'sysctls = { "net.core.somaxconn" = 1 }\nextra_hosts = { a = ["1.1.1.1"] }',
        'devices = ["/dev/a", { source = "/dev/a" }]',
        'logging = { driver = "local", options = { max-size = "1m", max-file = "3" } }',
        'deploy = { replicas = 2, resources = { limits = { memory = "1g" } } }',
        "x-mine = 3",
        'cpu_weight = "$W"\nread_only = "$RO"\nnetwork_mode = "${MODE:-host}"',
    ],
)
def test_what_is_right_is_right_for_both(body: str) -> None:
    data = container(body)
    if "$" not in body:
        SpecFile.model_validate(data)
    VALIDATOR.validate(data)


@pytest.mark.parametrize(
    "body",
    [
        "imag = 3",
        "command = 3",
        'command = { a = "b" }',
        "environment = 3",
        'ports = "80:80"',
        "ports = [{ published = 80 }]",
        "ports = [{ target = 80, publish = 80 }]",
        'volumes = [{ type = "npipe", target = "/x" }]',
        'depends_on = { b = "helthy" }',
        'depends_on = { b = { condition = "no" } }',
        "stop_grace_period = 10",
        "read_only = 3",
        "cpu_weight = 0",
        'network_mode = "bridged"',
        "ulimits = { nofil = 3 }",
        "ulimits = { nofile = { soft = 3 } }",
        "healthcheck = { interval = 5 }",
        "logging = { options = { max_size = 3 } }",
        'io = [{ read_bps = "1m" }]',
        'desired = "on"',
        "memory = true",
    ],
)
def test_what_is_wrong_in_kind_is_wrong_for_both(body: str) -> None:
    data = container(body)
    with pytest.raises(ValueError, match="validation error"):
        SpecFile.model_validate(data)
    assert not valid(data)


@pytest.mark.parametrize(
    "data",
    [
        {"services": {}},
        {"container": {"a": {}}},
        {"container": 3},
        {"project": 3},
        {"volume": {"v": {"x": 1}}},
    ],
)
def test_what_is_wrong_at_the_top_is_wrong_for_both(data: dict[str, Any]) -> None:
    assert not valid(data)


def test_a_null_body_is_an_empty_one() -> None:
    data = {"network": {"n": None}, "volume": {"v": None}, "x-any": [1], "container": {}}
    SpecFile.model_validate(data)
    VALIDATOR.validate(data)


def test_what_is_not_supported_yet_is_marked() -> None:
    container = SCHEMA["$defs"]["Container"]["properties"]
    assert SCHEMA["$defs"]["Build"]["properties"]["privileged"]["x-supported"] is False
    assert SCHEMA["$defs"]["Build"]["properties"]["privileged"]["description"] == "not supported yet"
    assert "x-supported" not in container["image"]
