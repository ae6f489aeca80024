"""config.json and credential helpers, as Docker's client has them."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from runtime.faults import Fault
from runtime.images import credentials
from runtime.images.credentials import HUB_KEY, Credential, DockerConfig, config_path
from runtime.images.login import registry_host
from tests import credential_helper


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def config(tmp_path: Path, path: str = "", **content: Any) -> DockerConfig:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    return DockerConfig(file, {"PATH": path})


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("registry.example", "registry.example"),
        ("registry.example:5000", "registry.example:5000"),
        ("https://registry.example", "registry.example"),
        ("https://registry.example/v1/", "registry.example"),
        ("http://registry.example/v2/", "registry.example"),
        (HUB_KEY, "docker.io"),
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
    ],
)
def test_a_registry_is_found_however_its_key_is_written(tmp_path: Path, key: str, host: str) -> None:
    found = config(tmp_path, auths={"other.example": auth("x:y"), key: auth("me:se:cret")}).find(host)
    assert found == Credential("me", "se:cret")


@pytest.mark.parametrize(
    "key", ["registry.example:5000", "example", "not-registry.example", "registry.example/team"]
)
def test_the_credentials_of_another_registry_are_not_used(tmp_path: Path, key: str) -> None:
    assert not config(tmp_path, auths={key: auth("me:secret")}).find("registry.example", "app")


def test_the_narrowest_entry_wins(tmp_path: Path) -> None:
    auths = {
        "a.example": auth("all:x"),
        "a.example/team": auth("team:x"),
        "a.example/team/app": auth("app:x"),
    }
    found = config(tmp_path, auths=auths)
    users = [found.find("a.example", name).username for name in ("team/app", "team/other", "else", "teams/x")]
    assert users == ["app", "team", "all", "all"]


def test_tokens_are_read_and_empty_entries_passed_over(tmp_path: Path) -> None:
    auths = {
        "a.example": {**auth("me:"), "identitytoken": "refresh"},
        "b.example": {"registrytoken": "bearer"},
        "c.example": {},
        "d.example": {"username": "me", "password": "plain"},
    }
    found = config(tmp_path, auths=auths)
    assert found.find("a.example") == Credential("me", "", identity_token="refresh")
    assert found.find("b.example") == Credential(registry_token="bearer")
    assert not found.find("c.example")
    assert found.find("d.example") == Credential("me", "plain")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ('{"auths": {"a.example": {"auth": "%%%"}}}', "is not base64"),
        ('{"credsStore": "../evil"}', "names the credential helper '../evil', which is no name"),
        ('{"credsStore": "none-such"}', "docker-credential-none-such, which"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_so(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Fault) as caught:
        DockerConfig(tmp_path / "config.json", {"PATH": ""}).find("a.example")
    assert caught.value.code == "registry-denied"
    assert cause in str(caught.value)


def test_no_file_is_no_credential(tmp_path: Path) -> None:
    assert not DockerConfig(tmp_path / "none/config.json").find("a.example")


def test_no_secret_is_in_what_a_credential_prints() -> None:
    text = repr(Credential("me", "secret-1", "secret-2", "secret-3"))
    assert "me" in text and "secret" not in text


def test_which_file_is_read_is_said_by_environment_then_settings_then_home(tmp_path: Path) -> None:
    environment = {"DOCKER_CONFIG": "/d", "HOME": "/h"}
    assert config_path("/s/auth.json", environment) == Path("/d/config.json")
    assert config_path("/s/auth.json", {"HOME": "/h"}) == Path("/s/auth.json")
    assert config_path("", {"HOME": "/h"}) == Path("/h/.docker/config.json")
    assert config_path("", {}).is_absolute()


# ---------------------------------------------------------------- changes


def test_a_login_is_kept_without_touching_anything_else(tmp_path: Path) -> None:
    made = config(tmp_path, auths={"a.example": auth("a:a")}, psFormat="x", HttpHeaders={"k": "v"})
    made.path.chmod(0o644)
    made.store("b.example", Credential("me", "secret"))
    content = json.loads(made.path.read_text())
    assert content == {
        "auths": {"a.example": auth("a:a"), "b.example": auth("me:secret")},
        "psFormat": "x",
        "HttpHeaders": {"k": "v"},
    }
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_login_replaces_every_spelling_of_its_registry(tmp_path: Path) -> None:
    made = config(tmp_path, auths={"https://a.example/v1/": auth("old:x"), "a.example/team": auth("team:x")})
    made.store("a.example", Credential("me", "secret"))
    assert set(json.loads(made.path.read_text())["auths"]) == {"a.example/team", "a.example"}
    assert made.find("a.example").username == "me"


def test_docker_hub_is_kept_by_the_key_that_docker_uses(tmp_path: Path) -> None:
    made = DockerConfig(tmp_path / "new/config.json")
    made.store("docker.io", Credential("me", identity_token="refresh"))
    assert json.loads(made.path.read_text()) == {
        "auths": {HUB_KEY: {**auth("me:"), "identitytoken": "refresh"}}
    }
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    assert made.erase("docker.io") and not made.find("docker.io")
    assert not made.erase("docker.io")


def test_a_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "config.json").symlink_to("real.json")
    DockerConfig(tmp_path / "config.json").store("a.example", Credential("me", "x"))
    assert (tmp_path / "config.json").is_symlink()
    assert "a.example" in (tmp_path / "real.json").read_text()


# ---------------------------------------------------------------- helpers


def test_a_helper_keeps_gives_and_forgets_and_sees_secrets_on_its_input_only(tmp_path: Path) -> None:
    path = credential_helper.install(tmp_path / "bin")
    made = config(tmp_path, str(path), credsStore="box")
    assert not made.find("a.example")
    assert made.store("a.example", Credential("me", "secret")).helper == "box"
    assert "secret" not in made.path.read_text()
    assert made.find("a.example") == Credential("me", "secret")
    made.store("docker.io", Credential("me", identity_token="refresh"))
    assert made.find("docker.io") == Credential(identity_token="refresh")
    assert made.erase("a.example") and not made.find("a.example")
    calls = [json.loads(line) for line in (path / "kept/calls").read_text().splitlines()]
    assert all(arguments in (["get"], ["store"], ["erase"]) for arguments, _ in calls)
    assert ["get", HUB_KEY] in [[*arguments, given] for arguments, given in calls]


def test_a_helper_of_one_registry_comes_before_the_common_one_and_the_file(tmp_path: Path) -> None:
    path = credential_helper.install(tmp_path / "bin", "own")
    content = {"auths": {"a.example": auth("file:x"), "b.example": auth("file:x")}}
    made = config(tmp_path, str(path), credHelpers={"a.example": "own"}, **content)
    made.store("a.example", Credential("helper", "x"))
    assert made.find("a.example").username == "helper"
    assert made.find("b.example").username == "file"


def test_what_a_helper_does_not_have_may_be_in_the_file(tmp_path: Path) -> None:
    path = credential_helper.install(tmp_path / "bin")
    made = config(tmp_path, str(path), credsStore="box", auths={"a.example": auth("file:x")})
    assert made.find("a.example").username == "file"


def test_a_helper_that_hangs_or_fails_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "HELPER_TIME", 0.2)
    program = tmp_path / "docker-credential-bad"
    made = config(tmp_path, f"{tmp_path}:/usr/bin:/bin", credsStore="bad")
    for text, cause in (
        ("exec sleep 60", "docker-credential-bad get took more than 0.2 s"),
        ("echo keychain is locked; exit 1", "docker-credential-bad get failed: keychain is locked"),
        ("echo not json", "docker-credential-bad did not answer with a JSON object"),
    ):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        with pytest.raises(Fault) as caught:
            made.find("a.example")
        assert cause in str(caught.value)


def test_a_helper_that_repeats_what_it_was_told_to_keep_is_not_quoted(tmp_path: Path) -> None:
    program = tmp_path / "docker-credential-bad"
    program.write_text("#!/bin/sh\ncat\nexit 1\n")
    program.chmod(0o755)
    made = config(tmp_path, f"{tmp_path}:/usr/bin:/bin", credsStore="bad")
    with pytest.raises(Fault) as caught:
        made.store("a.example", Credential("me", "secret"))
    assert str(caught.value).endswith("docker-credential-bad store failed: exit code 1")


# ---------------------------------------------------------------- hosts


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("", "docker.io"),
        ("docker.io", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry.example:5000", "registry.example:5000"),
        ("https://registry.example/v2/", "registry.example"),
        ("localhost", "localhost"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_the_host_that_people_mean(text: str, host: str) -> None:
    assert registry_host(text) == host


@pytest.mark.parametrize("text", ["-x", "a b", "user@host", "host:port", "a.."])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read registry"):
        registry_host(text)
