"""Whatever a registry, a helper or a config.json says: it is understood or refused, and nothing else
happens.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.faults import CODES, Fault, printable
from runtime.images import auth
from runtime.images.answers import retry_after
from runtime.images.connections import Errand, checked, origin
from runtime.images.credentials import Credential, DockerConfig
from runtime.images.indexes import Indexes, Target
from runtime.images.manifests import parse_config, parse_manifest
from runtime.images.proxies import is_excepted
from runtime.images.registry import Registries
from specs.values import ImageRef

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
hosts = st.sampled_from(["a.example", "docker.io", "127.0.0.1:5000"])


@given(st.text() | st.text('Bearer Basic realm="a",= \\', max_size=60))
def test_every_challenge_is_read_or_passed_over(header: str) -> None:
    found = auth.parse_challenges(header)
    assert all(challenge.scheme == challenge.scheme.lower() for challenge in found)


@given(st.lists(st.text("ab:,*/ ", max_size=12), max_size=4), st.text("ab:,*/ ", max_size=20))
def test_merging_scopes_twice_changes_nothing(own: list[str], asked: str) -> None:
    once = auth.merge_scopes(own, asked)
    assert auth.merge_scopes(once) == auth.merge_scopes(auth.merge_scopes(once))
    resources = [scope.rpartition(":")[0] for scope in once]
    assert len(resources) == len(set(resources))


@given(st.text() | st.text(string.digits, min_size=1, max_size=30))
def test_a_retry_after_is_a_time_to_come_or_nothing(value: str) -> None:
    found = retry_after(value, 1e9)
    assert found is None or 0 <= found < 1e12


@given(st.text(), st.text(), st.integers(1, 65535))
def test_every_no_proxy_is_read(no_proxy: str, host: str, port: int) -> None:
    assert is_excepted(host, port, no_proxy) in (True, False)


@given(st.text() | st.text("http://[]:@/?#%a1", max_size=30))
def test_a_place_to_go_to_is_a_url_or_refused(target: str) -> None:
    errand = Errand("pull image", "app")
    try:
        url = checked("https://a.example/v2/", target, errand)
    except Fault as fault:
        assert fault.code == "registry-unreachable"
        return
    assert origin(url)[1] and urlsplit(url).port in (None, *range(65536))


@given(st.text())
def test_what_a_fault_says_can_be_printed_and_stored(text: str) -> None:
    fault = Fault("manifest-invalid", "pull image", text, text, text)
    assert str(fault).encode() and all(char.isprintable() or char == "\n" for char in str(fault))
    assert printable(printable(text)) == printable(text)


@given(documents)
def test_every_answer_of_a_token_server_is_a_token_or_refused(document: object) -> None:
    try:
        token = auth.parse_token(json.dumps(document).encode())
    except ValueError:
        return
    assert token.text.isascii() and token.lifetime >= auth.DEFAULT_LIFETIME


@given(documents)
def test_every_manifest_and_config_is_read_or_refused(document: object) -> None:
    for parse in (parse_manifest, parse_config):
        with_type = dict(document, schemaVersion=2) if isinstance(document, dict) else document
        try:
            parse(json.dumps(with_type).encode(), "app")
        except Fault as fault:
            assert fault.code == "manifest-invalid"


entries = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("auth", "username", "password", "identitytoken", "registrytoken"), scalars)
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "auths": st.dictionaries(hosts | st.text(), entries | scalars, max_size=4) | scalars,
        "credHelpers": documents,
        "credsStore": st.text(max_size=3) | scalars,
        "other": documents,
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(configs, hosts)
def test_every_config_is_used_or_refused_and_what_was_stored_is_found(
    tmp_path: Path, config: dict[str, object], host: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    made = DockerConfig(path, {"PATH": ""})
    stored = Credential("me", "secret")
    try:
        found = made.find(host, "team/app")
        auth.basic(found.username, found.password)
        made.store(host, stored)
        assert made.find(host) == stored
        kept = json.loads(path.read_text())
        assert {key: value for key, value in kept.items() if key != "auths"} == {
            key: value for key, value in json.loads(json.dumps(config)).items() if key != "auths"
        }
        assert made.erase(host) and made.find(host) != stored
    except Fault as fault:
        assert fault.code == "registry-denied" and fault.code in CODES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(documents)
def test_every_draft_of_an_index_is_read_or_refused(tmp_path: Path, document: object) -> None:
    indexes, name = Indexes(tmp_path, Registries({})), ImageRef.parse("a.example/web:1")
    indexes.create(name, [], amend=True)
    (path,) = tmp_path.iterdir()
    path.write_text(json.dumps(document))
    with pytest.raises(Fault):
        indexes.annotate(name, "x", Target())
    path.unlink()
