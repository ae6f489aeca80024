"""Effects: the options of `stead build` as a request: variables and files that they name are read here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from agent.cli.images import store
from agent.cli.main import Problem
from runtime.build.request import STDIN, BuildRequest, Output, SecretSource, SshSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from runtime.wishes import LimitsRequest
    from specs.values import ImageRef

_EPOCH = "SOURCE_DATE_EPOCH"
#: Asks for the cache in the image, as docker's users write it.
_INLINE = "BUILDKIT_INLINE_CACHE"
#: Kinds of caches that BuildKit knows.
_CACHES = ("inline", "registry", "local", "gha", "s3", "azblob")
_KEYS = {"source": "src", "destination": "dest"}


def request(options: argparse.Namespace) -> BuildRequest:
    """Raises Problem for what contradicts itself or is not there."""
    args = _args(options.build_arg)
    context, dockerfile, text = _where(options.context, options.file)
    outputs, names = _outputs(options)
    return BuildRequest(
        context=context,
        dockerfile=dockerfile,
        dockerfile_text=text,
        dockerfile_name="Dockerfile" if options.file == STDIN else "",
        target=options.target,
        args=args,
        labels=dict(_pair(word, "--label") for word in options.label),
        names=tuple(_name(name) for name in [*options.tag, *names]),
        contexts=dict(_context(word) for word in options.build_context),
        secrets=tuple(_secret(word) for word in options.secret),
        ssh=tuple(_ssh(word) for word in options.ssh),
        no_cache=options.no_cache,
        no_cache_filter=tuple(name for word in options.no_cache_filter for name in word.split(",")),
        pull=options.pull,
        platforms=tuple(name for word in options.platform for name in word.split(",") if name),
        network=options.network,
        extra_hosts=tuple(_host(word) for word in options.add_host),
        shm_size=_size(options.shm_size, "--shm-size"),
        ulimits=tuple(_ulimit(word) for word in options.ulimit),
        limits=_limits(options),
        outputs=outputs,
        epoch=_epoch(args),
        cache_from=tuple(name for word in options.cache_from for name in _cache_from(word)),
        inline_cache=any(map(_is_inline, options.cache_to)) or _is_true(args.get(_INLINE, "")),
    )


def _where(context: str, file: str) -> tuple[str, str, bytes | None]:
    """The context, the Dockerfile within it (or an absolute path), and its bytes where it is on descriptor
    0."""
    text = None
    if file == STDIN:
        if context == STDIN:
            raise Problem("the context and the Dockerfile cannot both be standard input", 2)
        text, file = sys.stdin.buffer.read(), ""
    remote = context == STDIN or "://" in context or context.startswith(("git@", "github.com/"))
    if remote:
        return context, file or "Dockerfile", text
    directory = Path(context).absolute()
    if not directory.is_dir():
        raise Problem(f"cannot build {context}: it is not a directory")
    if text is not None or not file:
        return str(directory), "Dockerfile", text
    near, within = Path(file).absolute(), directory / file
    path = near if near.is_file() or not within.is_file() else within
    if not path.is_file():
        raise Problem(f"cannot read {file}: no such file")
    try:
        return str(directory), str(path.resolve().relative_to(directory.resolve())), None
    except ValueError:
        return str(directory), str(path), None


def _args(words: list[str]) -> dict[str, str]:
    """A name alone takes the value that the environment has; without one it is not given."""
    found = {}
    for word in words:
        name, given, value = word.partition("=")
        if not name:
            raise Problem(f"--build-arg {word}: it has no name", 2)
        if given:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _name(word: str) -> ImageRef:
    found = store.reference(word)
    if found.digest:
        raise Problem(f"--tag {word}: a digest cannot be chosen; write NAME:TAG", 2)
    return found


def _pair(word: str, option: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    if not key:
        raise Problem(f"{option} {word}: write KEY=VALUE", 2)
    return key, value


def _context(word: str) -> tuple[str, str]:
    name, given, where = word.partition("=")
    if not name or not given or not where:
        raise Problem(f"--build-context {word}: write NAME=PATH or NAME=URL", 2)
    if "://" in where or where.startswith("git@"):
        return name, where
    if not Path(where).is_dir():
        raise Problem(f"--build-context {word}: {where} is not a directory")
    return name, str(Path(where).absolute())


def _fields(word: str, option: str) -> dict[str, str]:
    """`key=value,key=value`; a value with a comma is in double quotes, as CSV has it."""
    import csv

    found = {}
    for part in next(csv.reader([word]), []):
        key, given, value = part.partition("=")
        if not given:
            raise Problem(f"{option} {word}: {part} has no value", 2)
        found[_KEYS.get(key.strip().lower(), key.strip().lower())] = value
    return found


def _secret(word: str) -> SecretSource:
    fields = _fields(word, "--secret")
    id, kind = fields.get("id", ""), fields.get("type", "")
    if not id:
        raise Problem(f"--secret {word}: it has no id", 2)
    env, path = fields.get("env", ""), fields.get("src", "")
    if kind == "env" and not env:
        env, path = path or id, ""
    if not env and not path:
        env, path = (id, "") if id in os.environ and kind != "file" else ("", id)
    if path and not Path(path).is_file():
        raise Problem(f"--secret {word}: {path} is not a file")
    return SecretSource(id, str(Path(path).absolute()) if path else "", env)


def _ssh(word: str) -> SshSource:
    id, _, path = word.partition("=")
    socket = path or os.environ.get("SSH_AUTH_SOCK", "")
    if not socket:
        raise Problem(f"--ssh {word}: no agent runs (SSH_AUTH_SOCK is not set)")
    if Path(socket).is_file():
        raise Problem(f"--ssh {word}: {socket} is a file; give the socket of an agent that has the key")
    return SshSource(id or "default", socket)


def _host(word: str) -> tuple[str, str]:
    name, given, address = word.partition("=") if "=" in word else word.partition(":")
    if not name or not given or not address:
        raise Problem(f"--add-host {word}: write HOST:ADDRESS", 2)
    return name, address.strip("[]")


def _size(word: str, option: str) -> int:
    from specs.values import ByteSize

    if not word:
        return 0
    try:
        return int(ByteSize.parse(word))
    except ValueError as error:
        raise Problem(f"{option} {word}: {error}", 2) from error


def _ulimit(word: str) -> tuple[str, int, int]:
    name, _, values = word.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return name, int(soft), int(hard or soft)
    except ValueError:
        raise Problem(f"--ulimit {word}: write NAME=SOFT[:HARD]", 2) from None


def _limits(options: argparse.Namespace) -> LimitsRequest | None:
    if not (options.memory or options.cpus or options.pids_limit):
        return None
    from runtime.wishes import LimitsRequest

    memory = _size(options.memory, "--memory")
    return LimitsRequest(cpus=options.cpus, memory=memory, pids=max(0, options.pids_limit))


def _epoch(args: dict[str, str]) -> int | None:
    """Of the build argument, else of the environment (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    text = args.get(_EPOCH, os.environ.get(_EPOCH, ""))
    if not text:
        return None
    if not text.isdecimal() or len(text) > 12:
        raise Problem(f"{_EPOCH}={text}: it is not a number of seconds", 2)
    return int(text)


def _cache_from(word: str) -> list[str]:
    """The image whose steps may be used; none for a kind of cache that there is not, as for an empty one."""
    if "=" not in word:
        return [str(store.reference(word))]
    fields = _fields(word, "--cache-from")
    kind = fields.get("type", "")
    if kind == "registry":
        if not fields.get("ref"):
            raise Problem(f"--cache-from {word}: it has no ref", 2)
        return [str(store.reference(fields["ref"]))]
    _other_cache("--cache-from", word, kind, "type=registry")
    return []


def _is_inline(word: str) -> bool:
    """Whether the cache goes into the image; what other kinds ask for is not made."""
    kind = _fields(word, "--cache-to").get("type", "") if "=" in word else "registry"
    if kind != "inline":
        _other_cache("--cache-to", word, kind, "type=inline")
    return kind == "inline"


def _other_cache(option: str, word: str, kind: str, instead: str) -> None:
    """A command that was written for docker goes on without; one that has a mistake does not."""
    if kind not in _CACHES:
        raise Problem(f"{option} {word}: its type is none of inline, registry, {', '.join(_CACHES[2:])}", 2)
    print(f"stead: {option} type={kind} is not used: {instead} is what there is", file=sys.stderr)


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")


def _outputs(options: argparse.Namespace) -> tuple[tuple[Output, ...], list[str]]:
    """The outputs, and names that --output gives the image."""
    found, names = [], []
    for word in options.output:
        if "=" not in word:
            output = Output("tar", "-") if word == "-" else Output("local", str(Path(word).absolute()))
        else:
            fields = _fields(word, "--output")
            kind, dest = fields.pop("type", ""), fields.pop("dest", "")
            if name := fields.pop("name", ""):
                names += name.split(",")
            if not kind:
                raise Problem(f"--output {word}: it has no type", 2)
            output = Output(kind, dest if dest in ("", "-") else str(Path(dest).absolute()), fields)
        if output.dest == "-" and os.isatty(1):
            raise Problem("cannot write an archive to a terminal; name a file with dest=", 2)
        found.append(output)
    if options.push:
        found.append(Output("registry"))
    if options.load and found:
        found.append(Output("image"))
    return tuple(found), names
