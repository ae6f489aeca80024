"""Effects: `stead login`: try credentials at a registry, and keep them where docker keeps them."""

from __future__ import annotations

import getpass
import os
import sys
from contextlib import closing

from agent.cli import specs
from agent.cli.main import Problem
from runtime.faults import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from agent.settings import Settings
    from runtime.images.credentials import Credential, DockerConfig
    from runtime.images.registry import Registries
    from runtime.paths import Paths

MAX_PASSWORD = 64 * 1024  # bytes


def add_options(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument("-u", "--username", default="", metavar="NAME")
    parser.add_argument(
        "-p", "--password", default="", metavar="PASSWORD", help="seen by all users of the host"
    )
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")


def add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", nargs="?", default="", metavar="HOST", help="registry (default: Docker Hub)")
    parser.add_argument(
        "--settings", metavar="FILE", help="settings (default: /etc/stead/stead.toml if there)"
    )


def run(options: argparse.Namespace, paths: Paths) -> int:
    from agent.machine import registry_settings
    from runtime.images.registry import Registries

    host, config, settings = place(options)
    if host in settings.registry and settings.registry[host].username:
        print(
            f"stead: the settings name credentials for {host}, which come before those that are kept now",
            file=sys.stderr,
        )
    with closing(Registries(registry_settings(settings))) as registries:
        if not _renew(registries, config, host, options):
            _log_in(registries, config, host, _given(options, config, host))
    print("Login Succeeded")
    return 0


def place(options: argparse.Namespace) -> tuple[str, DockerConfig, Settings]:
    """The registry, the config.json that is in use, and the settings."""
    from runtime.images.credentials import DockerConfig, config_path
    from runtime.images.login import registry_host

    settings = specs.settings_of(options)
    try:
        host = registry_host(options.host)
    except ValueError as error:
        raise Problem(str(error), 2) from error
    return host, DockerConfig(config_path(settings.credentials.docker_config, os.environ)), settings


def _renew(registries: Registries, config: DockerConfig, host: str, options: argparse.Namespace) -> bool:
    """Whether what is kept already is still good, when nothing else was given."""
    from runtime.images.login import log_in

    if options.username or options.password or options.password_stdin:
        return False
    known = config.find(host)
    if not known:
        return False
    print("Authenticating with existing credentials...")
    try:
        log_in(registries, host, known)
    except Fault as fault:
        if fault.code != "registry-denied" or not sys.stdin.isatty():
            raise
        print(f"stead: {fault}", file=sys.stderr)
        return False
    return True


def _given(options: argparse.Namespace, config: DockerConfig, host: str) -> Credential:
    """Name and password from options, standard input or the terminal."""
    from runtime.images.credentials import Credential

    if options.password_stdin and options.password:
        raise Problem("--password and --password-stdin exclude each other", 2)
    if options.password_stdin and not options.username:
        raise Problem("--password-stdin needs --username", 2)
    username, password = options.username, options.password
    if password:
        print(
            "stead: a password among the arguments can be seen by others; use --password-stdin",
            file=sys.stderr,
        )
    if options.password_stdin:
        password = sys.stdin.buffer.read(MAX_PASSWORD).decode().removesuffix("\n").removesuffix("\r")
    elif not (username and password):
        if not sys.stdin.isatty():
            raise Problem("standard input is no terminal to ask; use --username and --password-stdin")
        former = "" if username else config.find(host).username
        username = username or input(f"Username{f' ({former})' if former else ''}: ").strip() or former
        password = password or getpass.getpass("Password: ")
    if not username or not password:
        raise Problem(f"the {'password' if username else 'username'} is empty")
    return Credential(username, password)


def _log_in(registries: Registries, config: DockerConfig, host: str, credential: Credential) -> None:
    from runtime.images.login import log_in

    done = log_in(registries, host, credential)
    stored = config.store(host, done.credential)
    if not done.was_asked:
        print(f"stead: {host} asks for no credentials; these were kept untried", file=sys.stderr)
    if not stored.helper:
        what = "identity token" if done.credential.identity_token else "password"
        print(
            f"stead: the {what} is kept unencrypted in {stored.path}; "
            "a credential helper (credsStore) would keep it safer",
            file=sys.stderr,
        )
