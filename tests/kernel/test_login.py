"""`stead login` and what pulls make of it: basic, tokens, identity tokens, helpers, other people's tools."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from runtime.faults import Fault
from runtime.images import auth, tokens
from tests import credential_helper
from tests.kernel.fake_registry import CONTENT, Answer, Fake, Request, fault_of
from tests.kernel.images_box import BASE, Box, Layout, LocalRegistry, needs_registry, ref

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

USERS = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"  # the password is "secret"


class Person:
    """Someone with a config.json of their own, who types commands."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.config = base / "docker/config.json"
        (base / "stead.toml").write_text("")
        self.path = os.environ["PATH"]

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_CONFIG": str(self.config.parent), "PATH": self.path, "PYTHONPATH": os.getcwd()}

    def command(self, *words: str) -> list[str]:
        program = "import sys; from agent.cli.main import main; sys.exit(main())"
        places = ["--root", str(self.base / "root"), "--run", str(self.base / "run")]
        return [sys.executable, "-c", program, *places, *words, "--settings", str(self.base / "stead.toml")]

    def types(
        self, *words: str, given: str = "", code: int = 0, environment: dict[str, str] | None = None
    ) -> str:
        done = subprocess.run(
            self.command(*words),
            input=given,
            text=True,
            env=environment or self.environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        assert "secret" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def log_in(self, host: str, password: str = "secret", code: int = 0) -> str:
        return self.types("login", "-u", "me", "--password-stdin", host, given=password + "\n", code=code)

    @property
    def auths(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(self.config.read_text())["auths"]
        return found


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    base = tmp_path_factory.mktemp("guarded")
    (base / "htpasswd").write_text(USERS)
    made = LocalRegistry(base / "registry", htpasswd=base / "htpasswd")
    layout = Layout(base / "layout")
    layout.image([BASE])
    made.push(layout.path, "test", "app:1", "--dest-creds=me:secret")
    yield made
    made.stop()


# ---------------------------------------------------------------- basic, with a real registry


@needs_registry
def test_who_logged_in_can_pull_and_push_and_who_logged_out_cannot(
    person: Person, guarded: LocalRegistry
) -> None:
    name = f"{guarded.address}/app:1"
    assert f"stead login {guarded.address}" in person.types("image", "pull", name, code=1)
    assert person.log_in(guarded.address).startswith("Login Succeeded")
    assert list(person.auths) == [guarded.address]
    person.types("image", "pull", name)
    assert "1: digest: sha256:" in person.types("image", "push", name)
    again = person.types("login", guarded.address)
    assert again.splitlines() == ["Authenticating with existing credentials...", "Login Succeeded"]
    assert person.types("logout", guarded.address) == f"Removing login credentials for {guarded.address}\n"
    assert person.auths == {}
    assert person.types("logout", guarded.address) == f"Not logged in to {guarded.address}\n"
    assert "wants credentials" in person.types("image", "push", name, code=1)


@needs_registry
def test_wrong_credentials_are_refused_and_not_kept(person: Person, guarded: LocalRegistry) -> None:
    said = person.log_in(guarded.address, "wrong", code=1)
    assert said.startswith(f"stead: cannot log in to {guarded.address}: {guarded.address} refuses me (401")
    assert not person.config.exists()


@needs_registry
def test_other_tools_read_what_we_keep_and_we_what_they_keep(
    person: Person, guarded: LocalRegistry, tmp_path: Path
) -> None:
    person.log_in(guarded.address)
    image = f"docker://{guarded.address}/app:1"
    command = ["skopeo", "inspect", "--tls-verify=false", "--authfile", str(person.config), image]
    subprocess.run(command, check=True, capture_output=True)
    theirs = tmp_path / "theirs.json"
    command = ["skopeo", "login", "--tls-verify=false", "--authfile", str(theirs), "-u", "me"]
    subprocess.run([*command, "--password-stdin", guarded.address], input=b"secret", check=True)
    box = Box(tmp_path / "box", docker_config=theirs)
    assert box.store.pull(ref(f"{guarded.address}/app:1"))
    box.close()


@needs_registry
def test_a_helper_keeps_the_password_instead_of_the_file(
    person: Person, guarded: LocalRegistry, tmp_path: Path
) -> None:
    person.path += f":{credential_helper.install(tmp_path / 'bin')}"
    person.config.parent.mkdir()
    person.config.write_text('{"credsStore": "box"}')
    assert person.log_in(guarded.address) == "Login Succeeded\n"
    assert json.loads(person.config.read_text()) == {"credsStore": "box"}
    person.types("image", "pull", f"{guarded.address}/app:1")
    person.types("logout", guarded.address)
    person.types("image", "push", f"{guarded.address}/app:1", code=1)


@needs_registry
def test_on_a_terminal_name_and_password_are_asked_for_and_the_password_is_not_shown(
    person: Person, guarded: LocalRegistry
) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, person.command("login", guarded.address), person.environment)
    answers, seen = {b"Username: ": b"me\n", b"Password: ": b"secret\n"}, b""
    with contextlib.suppress(OSError):  # EIO: the other side is gone
        while data := os.read(terminal, 4096):
            seen += data
            for question in [question for question in answers if seen.endswith(question)]:
                os.write(terminal, answers.pop(question))
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen
    assert b"Login Succeeded" in seen and b"secret" not in seen
    assert list(person.auths) == [guarded.address]


@needs_registry
def test_the_settings_say_which_file_has_the_credentials(person: Person, guarded: LocalRegistry) -> None:
    person.log_in(guarded.address)
    place = person.base / "elsewhere.json"
    person.config.rename(place)
    bare = {key: value for key, value in person.environment.items() if key != "DOCKER_CONFIG"}
    bare["HOME"] = str(person.base)
    name = f"{guarded.address}/app:1"
    assert "wants credentials" in person.types("image", "pull", name, code=1, environment=bare)
    (person.base / "stead.toml").write_text(f'[credentials]\ndocker_config = "{place}"\n')
    assert person.types("image", "pull", name, environment=bare)


def test_what_cannot_be_asked_is_said(person: Person) -> None:
    assert "no terminal to ask" in person.types("login", "127.0.0.1:1", code=1)
    assert "--password-stdin needs --username" in person.types("login", "--password-stdin", code=2)
    assert "write HOST or HOST:PORT" in person.types("login", "-u", "me", "a b", code=2)
    assert "the password is empty" in person.log_in("127.0.0.1:1", "", code=1)
    assert "connection refused" in person.log_in("127.0.0.1:1", code=1)
    assert not person.config.exists()


# ---------------------------------------------------------------- token servers


class TokenServer:
    """A registry with a token server: `users` may have tokens, `refresh` is the identity token it gives."""

    def __init__(self, fake: Fake, *, refresh: str = "", realm: str = "") -> None:
        self.fake, self.refresh = fake, refresh
        self.realm = realm or f"http://{fake.address}/token"
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        self.good: list[str] = []
        self.lifetime = 300
        fake.answer = self.answer

    def answer(self, request: Request) -> Answer:
        if request.path.startswith("/token"):
            return self.token(request)
        if request.headers.get("Authorization") in [f"Bearer {token}" for token in self.good]:
            return Answer(b"{}") if request.path == "/v2/" else self.fake.plain(request)
        return Answer(b"{}", 401, {"WWW-Authenticate": f'Bearer realm="{self.realm}",service="reg, istry"'})

    def token(self, request: Request) -> Answer:
        form = request.body.decode() if request.method == "POST" else urlsplit(request.path).query
        fields, sent = parse_qs(form), request.headers.get("Authorization", "")
        self.asked.append((request.method, fields, sent))
        if request.method == "POST" and fields.get("refresh_token") != [self.refresh]:
            return Answer(b'{"error":"invalid_grant"}', 400)
        if request.method == "GET" and sent and sent != auth.basic("me", "secret"):
            return Answer(b"{}", 401)
        self.good.append(f"token{len(self.good)}")
        body = {"token": self.good[-1], "expires_in": self.lifetime}
        if "offline_token" in fields:
            body["refresh_token"] = self.refresh
        return Answer(json.dumps(body).encode())


def test_a_login_keeps_the_identity_token_and_pulls_trade_it(
    person: Person, fake: Fake, tmp_path: Path
) -> None:
    fake.image(CONTENT)
    server = TokenServer(fake, refresh="identity")
    person.log_in(fake.address)
    method, fields, sent = server.asked.pop()
    assert (method, sent) == ("GET", auth.basic("me", "secret"))
    assert fields["offline_token"] == ["true"] and fields["service"] == ["reg, istry"]
    packed = base64.b64encode(b"me:").decode()
    assert person.auths == {fake.address: {"auth": packed, "identitytoken": "identity"}}
    box = Box(tmp_path / "box", docker_config=person.config)
    assert box.store.pull(fake.ref)
    assert [
        (method, fields["grant_type"], fields["scope"], sent) for method, fields, sent in server.asked
    ] == [("POST", ["refresh_token"], ["repository:app:pull"], "")]
    server.refresh = "another"
    server.good.clear()
    with pytest.raises(Fault) as caught:
        box.store.pull(fake.ref)
    assert caught.value.code == "registry-denied"
    box.close()


def test_a_login_without_an_identity_token_keeps_the_password(person: Person, fake: Fake) -> None:
    server = TokenServer(fake)
    person.log_in(fake.address)
    assert person.auths == {fake.address: {"auth": base64.b64encode(b"me:secret").decode()}}
    assert len(server.asked) == 1


def test_a_registry_that_wants_no_credentials_is_told_apart(person: Person, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"{}")
    assert "asks for no credentials; these were kept untried" in person.log_in(fake.address)


def test_what_is_no_registry_is_no_place_to_log_in(person: Person, fake: Fake) -> None:
    assert "there is no registry" in person.log_in(fake.address, code=1)
    assert not person.config.exists()


def kept(tmp_path: Path, fake: Fake, text: str = "me:secret", **more: str) -> Path:
    entry = {"auth": base64.b64encode(text.encode()).decode(), **more}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {fake.address: entry}}))
    return path


def test_one_token_serves_a_whole_pull(tmp_path: Path, fake: Fake) -> None:
    fake.image(CONTENT, BASE)
    server = TokenServer(fake)
    box = Box(tmp_path / "box", docker_config=kept(tmp_path, fake))
    assert box.store.pull(fake.ref)
    assert len(server.asked) == 1
    assert [item for item in fake.requests if "Authorization" not in item.headers] == fake.requests[:1]
    box.close()


def test_a_token_that_is_about_to_end_is_renewed_before_it_is_refused(tmp_path: Path, fake: Fake) -> None:
    now = [1000.0]
    fetched: list[str] = []

    def fetch(method: str, url: str, *_: object) -> bytes:
        fetched.append(url)
        return json.dumps({"token": f"t{len(fetched)}", "expires_in": 100}).encode()

    made = tokens.Authenticator("a.example", lambda _: tokens.Credential(), fetch, lambda: now[0])
    errand = tokens.Errand("pull image", "app", "app", (auth.pull_scope("app"),))
    assert made.current(errand, "https://a.example") == ""
    challenges = auth.parse_challenges('Bearer realm="https://a.example/token"')
    assert made.answer(challenges, errand, "") == "Bearer t1"
    now[0] += 100 - tokens.MARGIN - 1
    assert made.current(errand, "https://a.example") == "Bearer t1"
    now[0] += 1
    assert made.current(errand, "https://a.example") == "Bearer t2"
    push = tokens.Errand("push image", "app", "app", (auth.push_scope("app"),))
    assert made.current(push, "https://a.example") == "Bearer t3"
    assert fetched[-1].endswith("?scope=repository%3Aapp%3Apull%2Cpush")


def test_a_registry_that_refuses_its_own_tokens_is_not_asked_without_an_end(
    tmp_path: Path, fake: Fake
) -> None:
    server = TokenServer(fake)
    whole = server.token

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return whole(request)
        server.good.clear()
        return server.answer(request)

    fake.answer = answer
    box = Box(tmp_path / "box", docker_config=kept(tmp_path, fake))
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-denied" and "refuses me (401)" in str(fault)
    assert len(fake.requests) <= 6
    box.close()


def test_a_basic_challenge_after_good_credentials_is_not_answered_again(tmp_path: Path, fake: Fake) -> None:
    fake.answer = lambda request: Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})
    box = Box(tmp_path / "box", docker_config=kept(tmp_path, fake))
    assert fault_of(box, fake.ref).code == "registry-denied"
    assert len(fake.requests) == 2
    box.close()


def test_a_new_login_is_used_without_starting_anew(tmp_path: Path, fake: Fake) -> None:
    fake.image(CONTENT)

    def answer(request: Request) -> Answer:
        if request.headers.get("Authorization") != auth.basic("me", "secret"):
            return Answer(b"{}", 401, {"WWW-Authenticate": "Basic realm=x"})
        return fake.plain(request)

    fake.answer = answer
    config = kept(tmp_path, fake, "me:old")
    box = Box(tmp_path / "box", docker_config=config)
    assert fault_of(box, fake.ref).code == "registry-denied"
    kept(tmp_path, fake)
    assert box.store.pull(fake.ref)
    box.close()


def test_a_token_of_before_the_login_that_is_not_enough_is_replaced(tmp_path: Path, fake: Fake) -> None:
    fake.image(CONTENT)
    server = TokenServer(fake)
    inner, anonymous = server.token, []

    def token(request: Request) -> Answer:
        given = inner(request)
        if "Authorization" not in request.headers:
            anonymous.append(f"Bearer {server.good[-1]}")
        return given

    def answer(request: Request) -> Answer:
        if request.headers.get("Authorization") in anonymous:
            return Answer(b"{}", 403)  # instead of 401: it knows who asks, and that is nobody
        return server.answer(request)

    server.token, fake.answer = token, answer  # type: ignore[method-assign]
    box = Box(tmp_path / "box", docker_config=tmp_path / "config.json")
    assert fault_of(box, fake.ref).code == "registry-denied"
    assert fault_of(box, fake.ref).code == "registry-denied"
    assert len(anonymous) == 1, "nobody logged in: another token would not help"
    kept(tmp_path, fake)
    assert box.store.pull(fake.ref)
    box.close()


def test_an_identity_token_goes_to_the_token_server_only(tmp_path: Path, fake: Fake, other: Fake) -> None:
    fake.image(CONTENT)
    server = TokenServer(fake, refresh="identity")
    other.files = fake.files
    inner = server.answer

    def answer(request: Request) -> Answer:
        given = inner(request)
        if "/blobs/" in request.path and given.status == 200:
            return Answer(b"", 307, {"Location": f"http://{other.address}{request.path}"})
        return given

    fake.answer = answer
    box = Box(tmp_path / "box", docker_config=kept(tmp_path, fake, "me:", identitytoken="identity"))
    assert box.store.pull(fake.ref)
    assert other.requests
    for request in other.requests:
        assert "Authorization" not in request.headers and b"identity" not in request.body
    box.close()


def test_a_token_request_that_is_redirected_takes_no_password_along(
    tmp_path: Path, fake: Fake, other: Fake
) -> None:
    TokenServer(fake)
    inner = fake.answer

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return Answer(b"", 307, {"Location": f"http://{other.address}/token"})
        return inner(request)

    fake.answer = answer
    other.answer = lambda request: Answer(b"{}", 401)
    box = Box(tmp_path / "box", docker_config=kept(tmp_path, fake))
    fault = fault_of(box, fake.ref)
    assert fault.code == "registry-denied" and "secret" not in str(fault)
    assert other.requests and all("Authorization" not in request.headers for request in other.requests)
    box.close()


def test_an_identity_token_does_not_follow_a_redirect_to_another_host(
    tmp_path: Path, fake: Fake, other: Fake
) -> None:
    TokenServer(fake, refresh="identity")
    inner = fake.answer

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return Answer(b"", 307, {"Location": f"http://{other.address}/token"})
        return inner(request)

    fake.answer = answer
    box = Box(tmp_path / "box", docker_config=kept(tmp_path, fake, "me:", identitytoken="identity"))
    fault = fault_of(box, fake.ref)
    assert f"redirects an identity token to {other.address}, which is not safe" in str(fault)
    assert other.requests == []
    box.close()
