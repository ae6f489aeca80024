"""Effects: credentials for registries as Docker's client keeps them: config.json and credential helpers.

Sources: docker CLI reference "docker login" (credential stores, credential helpers), the protocol of
docker-credential-helpers (get, store, erase, list on standard input and output). Secrets travel through pipes
and files of mode 0600 only, never through arguments, messages or logs.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.faults import Fault
from runtime.images.auth import TOKEN
from runtime.paths import write_atomically

HELPER_TIME = 30.0  # seconds that a credential helper may take
MAX_CONFIG_FILE = 4 * 1024 * 1024  # bytes of a config.json
HUB_KEY = "https://index.docker.io/v1/"  # Docker Hub's name in config.json and to helpers
TOKEN_USER = "<token>"  # the user name under which helpers keep an identity token
HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")

_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MISSING = "credentials not found"  # how helpers begin the message that they have none


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves who we are. An identity token is traded for access tokens; a registry token is one
    already.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a credential went: `helper` is the helper's name, empty for the file itself."""

    path: Path
    helper: str


def config_path(setting: str, environment: Mapping[str, str]) -> Path:
    """The config.json to use: DOCKER_CONFIG (a directory), else `setting` (a file), else the user's own."""
    if directory := environment.get("DOCKER_CONFIG"):
        return Path(directory) / "config.json"
    if setting:
        return Path(setting)
    home = environment.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    return Path(home) / ".docker" / "config.json"


def host_key(host: str) -> str:
    """How config.json and helpers call a registry: by its host, Docker Hub by its old URL."""
    return HUB_KEY if host in HUB_HOSTS else host


class DockerConfig:
    """One config.json, read anew at each use: `docker login` may change it at any time."""

    def __init__(self, path: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.path, self._environment = path, environment

    # ------------------------------------------------------------ look

    def find(self, host: str, repository: str = "") -> Credential:
        """The credential for a repository of a registry; an empty one where there is none.

        A helper of the host comes before the common one, and that before the file. Entries for a part of a
        registry (`host/team`) are honoured as podman writes them. Faults registry-denied where the file or
        the helper cannot be used.
        """
        config = self._read(host)
        helper = self._helper(config, host)
        if helper:
            found = self._ask_helper(helper, host)
            if found:
                return found
        auths = config.get("auths")
        auths = auths if isinstance(auths, dict) else {}
        for key in _keys(host, repository):
            if found := self._decode(auths.get(key), key):
                return found
        for key, entry in auths.items():
            if _host_of(key) == _host_of(host_key(host)) and (found := self._decode(entry, key)):
                return found
        return Credential()

    def _decode(self, entry: object, key: str) -> Credential:
        if not isinstance(entry, dict):
            return Credential()
        username, password = _text(entry, "username"), _text(entry, "password")
        if packed := _text(entry, "auth"):
            try:
                plain = base64.b64decode(packed, validate=True).decode()
            except ValueError:
                raise self._fault(key, f"auth of {key} in {self.path} is not base64") from None
            username, _, password = plain.rstrip("\0").partition(":")
        identity, registry = _text(entry, "identitytoken"), _text(entry, "registrytoken")
        if registry and not TOKEN.match(registry):
            raise self._fault(key, f"registrytoken of {key} in {self.path} is no token")
        return Credential(username, password, identity, registry)

    # ------------------------------------------------------------ change

    def store(self, host: str, credential: Credential) -> Stored:
        """Keep a credential: with the helper that the file names, or in the file (0600, other keys kept)."""
        config = self._read(host)
        key, helper = host_key(host), self._helper(config, host)
        if helper:
            secret = credential.identity_token or credential.password
            user = TOKEN_USER if credential.identity_token else credential.username
            document = {"ServerURL": key, "Username": user, "Secret": secret}
            self._run_helper(helper, "store", json.dumps(document).encode(), host)
            return Stored(self.path, helper)
        packed = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
        entry = {"auth": packed}
        if credential.identity_token:
            entry["identitytoken"] = credential.identity_token

        def change(auths: dict[str, Any]) -> None:
            for name in _same(auths, host):
                del auths[name]
            auths[key] = entry

        self._rewrite(config, change, host)
        return Stored(self.path, "")

    def erase(self, host: str) -> bool:
        """Forget a registry's credentials, with the helper and in the file. Whether there were some."""
        config = self._read(host)
        helper, found = self._helper(config, host), False
        if helper:
            found = bool(self._ask_helper(helper, host))
            if found:
                self._run_helper(helper, "erase", host_key(host).encode(), host)
        auths = config.get("auths")
        names = _same(auths, host) if isinstance(auths, dict) else []

        def change(auths: dict[str, Any]) -> None:
            for name in names:
                del auths[name]

        if names:
            self._rewrite(config, change, host)
        return found or bool(names)

    # ------------------------------------------------------------ the file

    def _read(self, host: str) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                data = file.read(MAX_CONFIG_FILE + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise self._fault(host, f"cannot read {self.path}: {(error.strerror or '').lower()}") from error
        if len(data) > MAX_CONFIG_FILE:
            raise self._fault(host, f"{self.path} has more than {MAX_CONFIG_FILE} bytes")
        if not data.strip():
            return {}
        try:
            config = json.loads(data)
        except (ValueError, RecursionError):
            raise self._fault(host, f"{self.path} is not JSON") from None
        if not isinstance(config, dict):
            raise self._fault(host, f"{self.path} is not a JSON object")
        return config

    def _rewrite(self, config: dict[str, Any], change: Callable[[dict[str, Any]], None], host: str) -> None:
        auths = config.get("auths")
        config["auths"] = auths if isinstance(auths, dict) else {}
        change(config["auths"])
        place = Path(os.path.realpath(self.path))  # a link stays a link
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(place, json.dumps(config, indent="\t").encode() + b"\n")
        except OSError as error:
            raise self._fault(host, f"cannot write {self.path}: {(error.strerror or '').lower()}") from error

    # ------------------------------------------------------------ helpers

    def _helper(self, config: Mapping[str, Any], host: str) -> str:
        """The name of the helper for a host; empty: none."""
        own = _table(config, "credHelpers")
        names = [own.get(name) for name in (host_key(host), host)] + [config.get("credsStore")]
        name = next((name for name in names if isinstance(name, str) and name), "")
        if name and not _HELPER_NAME.match(name):
            raise self._fault(host, f"{self.path} names the credential helper {name!r}, which is no name")
        return name

    def _ask_helper(self, helper: str, host: str) -> Credential:
        answer = self._run_helper(helper, "get", host_key(host).encode(), host)
        if not answer:
            return Credential()
        try:
            value = json.loads(answer)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._fault(host, f"docker-credential-{helper} did not answer with a JSON object")
        username, secret = _text(value, "Username"), _text(value, "Secret")
        if username == TOKEN_USER:
            return Credential(identity_token=secret)
        return Credential(username, secret)

    def _run_helper(self, helper: str, verb: str, given: bytes, host: str) -> bytes:
        """Its output; empty where it has no such credential."""
        name = f"docker-credential-{helper}"
        program = shutil.which(name, path=self._environment.get("PATH"))
        if program is None:
            raise self._fault(host, f"{name}, which {self.path} asks for, is not on the path")
        try:
            done = subprocess.run(
                [program, verb],
                input=given,
                capture_output=True,
                timeout=HELPER_TIME,
                check=False,
                env=dict(self._environment),
            )
        except subprocess.TimeoutExpired:
            raise self._fault(host, f"{name} {verb} took more than {HELPER_TIME:g} s") from None
        except OSError as error:
            raise self._fault(host, f"cannot run {name}: {(error.strerror or '').lower()}") from error
        if done.returncode == 0:
            return done.stdout
        message = " ".join((done.stdout or done.stderr).decode(errors="replace").split())
        if verb in ("get", "erase") and message.lower().startswith(_MISSING):
            return b""
        cause = _printable(message) if verb != "store" else ""  # some repeat what they were given
        raise self._fault(host, f"{name} {verb} failed: {cause or f'exit code {done.returncode}'}")

    def _fault(self, host: str, cause: str) -> Fault:
        return Fault("registry-denied", "get credentials for", host or "registries", cause)


def _keys(host: str, repository: str) -> Iterator[str]:
    """The keys of `auths` that may hold a repository's credential, the narrowest first."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), 0, -1):
        yield f"{host}/{'/'.join(parts[:count])}"
    yield host_key(host)
    yield host


def _same(auths: Mapping[str, Any], host: str) -> list[str]:
    """The keys that mean this registry as a whole, however they are written."""
    wanted = _host_of(host_key(host))
    return [key for key in auths if _host_of(key) == wanted]


def _host_of(key: str) -> str:
    """The host of a key such as `https://index.docker.io/v1/`; a path of another kind keeps it apart."""
    rest = key.partition("://")[2] if "://" in key else key
    host, _, path = rest.partition("/")
    if path.strip("/") not in ("", "v1", "v2"):
        return key
    return "docker.io" if host in HUB_HOSTS else host


def _table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _text(value: Mapping[str, Any], key: str) -> str:
    """Empty, too, for what JSON can write and UTF-8 cannot."""
    item = value.get(key)
    return item if isinstance(item, str) and not _SURROGATE.search(item) else ""


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:200]
