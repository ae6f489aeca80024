"""What the options of `stead build` ask for, and which of them are refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from agent.cli import build
from agent.cli.builds import arguments
from agent.cli.main import Problem
from runtime.build.request import BuildRequest, Output, SecretSource


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a context in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("SOURCE_DATE_EPOCH", "SSH_AUTH_SOCK", "TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").touch()
    return tmp_path


def read(*words: str) -> BuildRequest:
    parser = argparse.ArgumentParser()
    build.add_options(parser)
    return arguments.request(parser.parse_args([*words, "context"]))


def test_the_context_is_named_by_its_whole_path(place: Path) -> None:
    request = read()
    assert request.context == str(place / "context")
    assert request.dockerfile == "Dockerfile"


def test_a_dockerfile_is_looked_for_here_and_then_in_the_context(place: Path) -> None:
    (place / "context" / "sub").mkdir()
    (place / "context" / "sub" / "D").touch()
    (place / "D").touch()
    assert read("-f", "context/sub/D").dockerfile == "sub/D"
    assert read("-f", "sub/D").dockerfile == "sub/D"
    assert read("-f", "D").dockerfile == str(place / "D")
    with pytest.raises(Problem, match="cannot read none"):
        read("-f", "none")


def test_a_build_argument_without_a_value_has_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "of the environment")
    monkeypatch.delenv("NONE", raising=False)
    found = read("--build-arg", "A=1=2", "--build-arg", "TOKEN", "--build-arg", "NONE").args
    assert found == {"A": "1=2", "TOKEN": "of the environment"}


def test_secrets_are_files_or_variables(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "key").touch()
    monkeypatch.setenv("TOKEN", "x")
    words = ["id=a,src=key", "id=b,env=TOKEN", "id=TOKEN", "id=key", "type=env,id=TOKEN"]
    found = read(*(part for word in words for part in ("--secret", word))).secrets
    path = str(place / "key")
    assert found == (
        SecretSource("a", path),
        SecretSource("b", env="TOKEN"),
        SecretSource("TOKEN", env="TOKEN"),
        SecretSource("key", path),
        SecretSource("TOKEN", env="TOKEN"),
    )
    for wrong in ("src=key", "id=a,src=none", "id"):
        with pytest.raises(Problem):
            read("--secret", wrong)


def test_outputs_are_a_directory_or_said_in_full(place: Path) -> None:
    assert read("-o", "out").outputs == (Output("local", str(place / "out")),)
    assert read("-o", "type=tar,dest=x.tar").outputs == (Output("tar", str(place / "x.tar")),)
    found = read("-o", "type=oci,dest=x,tar=false")
    assert found.outputs[0].attributes == {"tar": "false"}
    named = read("-o", 'type=image,"name=a:1,b:2",push=true', "-t", "c")
    assert [name.familiar for name in named.names] == ["c:latest", "a:1", "b:2"]
    assert read("--push", "--load").outputs == (Output("registry"), Output("image"))
    with pytest.raises(Problem, match="has no type"):
        read("-o", "dest=x")


def test_an_epoch_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read().epoch is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    assert read().epoch == 5
    assert read("--build-arg", "SOURCE_DATE_EPOCH=7").epoch == 7
    with pytest.raises(Problem, match="not a number of seconds"):
        read("--build-arg", "SOURCE_DATE_EPOCH=now")


def test_limits_hosts_and_platforms_are_read() -> None:
    found = read(
        *("--memory", "64m", "--cpus", "1.5", "--shm-size", "1m", "--ulimit", "nofile=10:20"),
        *("--add-host", "db:192.0.2.1", "--add-host", "v6=[::1]", "--platform", "linux/amd64,linux/arm64"),
    )
    assert found.limits is not None
    assert (found.limits.memory, found.limits.cpus, found.shm_size) == (64 << 20, 1.5, 1 << 20)
    assert found.ulimits == (("nofile", 10, 20),)
    assert found.extra_hosts == (("db", "192.0.2.1"), ("v6", "::1"))
    assert found.platforms == ("linux/amd64", "linux/arm64")


@pytest.mark.parametrize(
    "words",
    [
        ("-t", "UPPER"),
        ("-t", f"x@sha256:{'0' * 64}"),
        ("--label", "=x"),
        ("--build-arg", "=x"),
        ("--ulimit", "nofile"),
        ("--shm-size", "many"),
        ("--add-host", "db"),
        ("--ssh", "default"),
        ("--build-context", "x"),
        ("--build-context", "x=none"),
    ],
)
def test_what_means_nothing_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(Problem):
        read(*words)


def test_caches_are_images_and_the_image_itself(capsys: pytest.CaptureFixture[str]) -> None:
    request = read("--cache-from", "app:1", "--cache-from", "type=registry,ref=registry.example/app:2")
    assert request.cache_from == ("docker.io/library/app:1", "registry.example/app:2")
    assert not request.inline_cache
    assert read("--cache-to", "type=inline").inline_cache
    assert read("--build-arg", "BUILDKIT_INLINE_CACHE=1").inline_cache
    assert not read("--build-arg", "BUILDKIT_INLINE_CACHE=0").inline_cache
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["--cache-from", "type=gha"], "--cache-from type=gha is not used: type=registry is"),
        (["--cache-to", "type=local,dest=x"], "--cache-to type=local is not used: type=inline is"),
        (["--cache-to", "app:1"], "--cache-to type=registry is not used: type=inline is"),
    ],
    ids=" ".join,
)
def test_caches_that_there_are_not_are_said_and_done_without(
    words: list[str], instead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = read(*words)
    assert (request.cache_from, request.inline_cache) == ((), False)
    assert instead in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--cache-from", "type=registry"],
        ["--cache-from", "type=nothing"],
        ["--cache-from", "ref=app"],
        ["--cache-to", "type=nothing"],
        ["--cache-from", "UPPER"],
    ],
    ids=" ".join,
)
def test_mistakes_in_caches_are_wrong_use(words: list[str]) -> None:
    with pytest.raises(Problem):
        read(*words)
