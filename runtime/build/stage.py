"""Decisions: what a stage is after each instruction, and what the instruction asks of the file system.

`begin` -> `step` for every instruction -> the config of the image. Variables have their values from
*before* the instruction; RUN, CMD and ENTRYPOINT are left to the shell. Histories read as BuildKit
writes them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, assert_never

from runtime.build import gotext, ports, signals, words
from runtime.build.config import HealthcheckConfig, History, ImageConfig
from runtime.build.effects import SCRIPTS, CopyEffect, Effect, InlineFile, RunEffect, WorkdirEffect
from runtime.build.instructions import (
    Add,
    Arg,
    Cmd,
    CommandLine,
    Copy,
    Declared,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Pair,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from runtime.build.lines import heredoc_word
from runtime.build.mounts import MountError, RunMount, read_mount
from runtime.build.problems import BuildWarning, DockerfileError, Place, Problem, nearest, printable, short
from runtime.build.scope import Scope
from runtime.build.values import Value, replace

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
COMMENT = "stead.dockerfile.v0"
#: Characters. All values that instructions set are in it, so this is their limit as well: doubling ends here.
MAX_HISTORY = 4 << 20
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CHECKSUM = re.compile(r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}|[0-9a-f]{7,64})\Z")
_RAN = " # buildkit"  # what histories have after an instruction that made a layer; tools look for it


class StageState(Value):
    """The config so far and what only the build knows.

    `environment`: the config's, with build arguments over it in the order both were set. `args`: names that
    ARG declared, None for one without a value. `once`: where CMD, ENTRYPOINT and HEALTHCHECK stood last in
    this stage. `workdir_set`: a WORKDIR stood in this Dockerfile.
    """

    config: ImageConfig
    environment: Mapping[str, str]
    args: Mapping[str, str | None] = _NOTHING
    once: Mapping[str, Place] = _NOTHING
    workdir_set: bool = False
    said: int = 0  # characters of history that this build wrote


class Stepped(Value):
    state: StageState
    effect: Effect
    warnings: tuple[BuildWarning, ...]


def begin(base: ImageConfig) -> StageState:
    """The state after FROM an image (its OnBuild is gone: see `Graph.with_triggers`), or FROM scratch."""
    environment = dict(base.env)
    environment.setdefault("PATH", DEFAULT_PATH)
    working_dir = posixpath.normpath("/" + base.working_dir) if base.working_dir else ""
    config = replace(base, env=environment, on_build=(), working_dir=working_dir.replace("//", "/"))
    return StageState(config, environment)


def continue_from(state: StageState) -> StageState:
    """The state after FROM another stage, whose last one is `state`: with its build arguments."""
    return replace(state, config=replace(state.config, on_build=()), once={})


def step(state: StageState, instruction: Instruction, scope: Scope) -> Stepped:
    """The state after the instruction, and its effect. Raises DockerfileError for words that mean nothing."""
    return _Step(state, instruction, scope).taken()


class _Step:
    def __init__(self, state: StageState, instruction: Instruction, scope: Scope) -> None:
        self.state, self.instruction, self.scope = state, instruction, scope
        self.warnings: list[BuildWarning] = []

    def taken(self) -> Stepped:
        state, effect = self.dispatch()
        return Stepped(state, effect, tuple(self.warnings))

    def dispatch(self) -> tuple[StageState, Effect]:
        match instruction := self.instruction:
            case Run():
                return self.run(instruction)
            case Copy() | Add():
                return self.copy(instruction)
            case Workdir():
                return self.workdir(instruction)
            case Arg():
                return self.arg(instruction), None
            case Env():
                return self.env(instruction), None
            case Label():
                return self.label(instruction), None
            case Cmd() | Entrypoint():
                return self.command(instruction), None
            case Healthcheck():
                return self.healthcheck(instruction), None
            case Expose():
                return self.expose(instruction), None
            case Volume():
                return self.volume(instruction), None
            case User():
                user = self.expand(instruction.user)
                return self.said(f"USER {user}", user=user), None
            case Stopsignal():
                return self.stopsignal(instruction), None
            case Shell(words=shell):
                return self.said(f"SHELL {gotext.plain_list(shell)}", shell=shell), None
            case Maintainer(name=name):
                return self.said(f"MAINTAINER {name}", author=name), None
            case Onbuild(trigger=trigger):
                config = self.state.config
                return self.changed(replace(config, on_build=(*config.on_build, trigger))), None
            case _ as never:
                assert_never(never)

    # ------------------------------------------------------------ words

    def wrong(self, text: str, hint: str = "", place: Place | None = None) -> DockerfileError:
        return DockerfileError([Problem(place or self.instruction.place, text, hint)])

    def warn(self, rule: str, text: str, place: Place | None = None) -> None:
        self.warnings.append(BuildWarning(place or self.instruction.place, rule, text))

    def examined(self, text: str, place: Place | None = None) -> words.Expansion:
        try:
            found = words.examine(text, self.state.environment.get, self.scope.escape)
        except words.ExpansionError as error:
            raise self.wrong(f"{error} in {text!r}", place=place) from None
        self.look_for_unset(found, place)
        return found

    def look_for_unset(self, found: words.Expansion, place: Place | None = None) -> None:
        for name in sorted(found.unset - self.state.args.keys()):
            hint = nearest(name, self.state.environment)
            hint = f" ({hint})" if hint else ""
            self.warn("UndefinedVar", f"variable '${name}' is not set{hint}", place)

    def expand(self, text: str) -> str:
        return self.examined(text).text

    def filled(self, text: str, what: str) -> str:
        found = self.examined(text)
        if not found.text:
            unset = sorted(found.unset)
            hint = nearest(unset[0], self.state.environment) if unset else ""
            raise self.wrong(f"{what} is empty: {text!r} has no value", hint)
        return found.text

    def heredoc(self, heredoc: Heredoc) -> InlineFile:
        """Its content; unless its name is quoted, with variables replaced (quotes are no quotes in it)."""
        content = heredoc.content
        if heredoc.expand:
            try:
                found = words.examine(content, self.state.environment.get, quotes=False)
            except words.ExpansionError as error:
                raise self.wrong(f"{error} in heredoc {heredoc.name!r}") from None
            self.look_for_unset(found)
            content = found.text
        return InlineFile(heredoc.name, content.encode("utf-8", "surrogateescape"))

    def title(self, text: str) -> str:
        """The instruction for people: variables that have values replaced, quotes kept."""
        try:
            get = self.state.environment.get
            text = words.examine(text, get, self.scope.escape, raw_quotes=True, keep_unset=True).text
        except words.ExpansionError:
            pass
        keyword, *rest = text.split(None, 1)
        return printable(short(" ".join((keyword.upper(), *rest)).strip()))

    # ------------------------------------------------------------ the config

    def changed(self, config: ImageConfig) -> StageState:
        return replace(self.state, config=config)

    def said(self, created_by: str, *, layer: bool = False, **changes: object) -> StageState:
        """The state with a line of history more and the fields of the config changed."""
        size = self.state.said + len(created_by)
        if size > MAX_HISTORY:
            raise self.wrong(f"the image's history becomes longer than {MAX_HISTORY} characters")
        entry = History(created_by, not layer, comment=COMMENT)
        config = self.state.config
        config = replace(config, history=(*config.history, entry), **changes)
        return replace(self.state, config=config, said=size)

    def seen_once(self, state: StageState) -> StageState:
        """Only the last CMD, ENTRYPOINT and HEALTHCHECK of a stage counts."""
        keyword = type(self.instruction).__name__.upper()
        if (before := self.state.once.get(keyword)) is not None:
            self.warn("MultipleInstructionsDisallowed", f"only the last {keyword} of a stage counts", before)
        return replace(state, once={**state.once, keyword: self.instruction.place})

    def with_shell(self, command: CommandLine) -> tuple[str, ...]:
        if not command.shell:
            return command.words
        return (*(self.state.config.shell or DEFAULT_SHELL), *command.words)

    def arg(self, instruction: Arg) -> StageState:
        environment, args = dict(self.state.environment), dict(self.state.args)
        said = []
        for declared in instruction.args:
            value = self.arg_value(declared)
            args[declared.name] = value
            if value is not None:
                environment[declared.name] = value
            said.append(declared.name if value is None else f"{declared.name}={value}")
            self.state = replace(self.state, environment=environment, args=args)
        return self.said("ARG " + " ".join(said))

    def arg_value(self, declared: Declared) -> str | None:
        if declared.name in self.scope.given:
            return self.scope.given[declared.name]
        if declared.default is not None:
            return self.examined(declared.default, declared.place).text
        return self.scope.globals_.get(declared.name)

    def pairs(self, pairs: tuple[Pair, ...]) -> list[tuple[str, str, Pair]]:
        keyword = type(self.instruction).__name__.upper()
        out = []
        for pair in pairs:
            name = self.examined(pair.key, pair.place).text
            if not name:
                raise self.wrong(f"a name of {keyword} is empty: {pair.key!r} has no value", place=pair.place)
            if keyword == "ENV" and "=" in name:
                raise self.wrong(f"'=' cannot be in a name of ENV ({name!r})", place=pair.place)
            out.append((name, self.examined(pair.value, pair.place).text, pair))
        return out

    def env(self, instruction: Env) -> StageState:
        found = self.pairs(instruction.pairs)
        values = {name: value for name, value, _ in found}
        state = self.said(_pairs_text("ENV", found), env={**self.state.config.env, **values})
        return replace(state, environment={**self.state.environment, **values})

    def label(self, instruction: Label) -> StageState:
        found = self.pairs(instruction.pairs)
        labels = {name: value for name, value, _ in found}
        return self.said(_pairs_text("LABEL", found), labels={**self.state.config.labels, **labels})

    def command(self, instruction: Cmd | Entrypoint) -> StageState:
        arguments = self.with_shell(instruction.command)
        keyword = "CMD" if isinstance(instruction, Cmd) else "ENTRYPOINT"
        if instruction.command.shell and not self.state.config.shell:
            text = f"write {keyword} as a JSON array: a shell does not pass signals on"
            self.warn("JSONArgsRecommended", text)
        said = f"{keyword} {gotext.quoted_list(arguments)}"
        if keyword == "CMD":
            return self.seen_once(self.said(said, cmd=arguments))
        cmd = self.state.config.cmd if "CMD" in self.state.once else None  # a base's was for its entrypoint
        return self.seen_once(self.said(said, entrypoint=arguments or None, cmd=cmd))

    def healthcheck(self, instruction: Healthcheck) -> StageState:
        if (command := instruction.command) is None:
            test: tuple[str, ...] = ("NONE",)
        else:
            test = ("CMD-SHELL" if command.shell else "CMD", *command.words)
        health = HealthcheckConfig(
            test,
            instruction.interval,
            instruction.timeout,
            instruction.start_period,
            instruction.start_interval,
            instruction.retries,
        )
        said = (
            f"HEALTHCHECK {{Test:{gotext.plain_list(test)} Interval:{gotext.duration(health.interval)}"
            f" Timeout:{gotext.duration(health.timeout)} StartPeriod:{gotext.duration(health.start_period)}"
            f" StartInterval:{gotext.duration(health.start_interval)} Retries:{health.retries}}}"
        )
        return self.seen_once(self.said(said, healthcheck=health))

    def expose(self, instruction: Expose) -> StageState:
        found = [word for port in sorted(instruction.ports) for word in self.examined(port).words]
        try:
            exposed = ports.exposed(found, self.warn)
        except ValueError as error:
            raise self.wrong(f"EXPOSE: {error}") from None
        said = f"EXPOSE {gotext.plain_list(exposed)}"
        return self.said(said, exposed_ports=self.state.config.exposed_ports | frozenset(exposed))

    def volume(self, instruction: Volume) -> StageState:
        paths = tuple(self.filled(path, "a path of VOLUME") for path in instruction.paths)
        said = f"VOLUME {gotext.plain_list(paths)}"
        return self.said(said, volumes=self.state.config.volumes | frozenset(paths))

    def stopsignal(self, instruction: Stopsignal) -> StageState:
        signal = self.filled(instruction.signal, "STOPSIGNAL")
        if not signals.is_signal(signal):
            raise self.wrong(
                f"{signal!r} is not a signal", nearest(signal, [f"SIG{name}" for name in signals.NAMES])
            )
        return self.said(f"STOPSIGNAL {signal}", stop_signal=signal)

    # ------------------------------------------------------------ the file system

    def workdir(self, instruction: Workdir) -> tuple[StageState, Effect]:
        path = self.expand(instruction.path)
        if not self.state.workdir_set and not path.startswith("/"):
            self.warn("WorkdirRelativePath", f"WORKDIR {path!r} depends on the base image's")
        path = _absolute(self.state.config.working_dir, path)
        state = self.said(f"WORKDIR {path}", layer=path != "/", working_dir=path)
        state = replace(state, workdir_set=True)
        if path == "/":
            return state, None
        title = self.title(instruction.text)
        return state, WorkdirEffect(instruction.place, path, self.state.config.user, title)

    def run(self, instruction: Run) -> tuple[StageState, Effect]:
        command, script = _with_heredocs(instruction.command)
        arguments = self.with_shell(command)
        title = self.title(instruction.text)
        if (heredocs := instruction.command.heredocs) and heredoc_word(instruction.command.words[0]):
            title += printable(f" ({short(_summary(heredocs[0].content))})")
        effect = RunEffect(
            instruction.place,
            arguments,
            self.state.environment,
            self.state.config.working_dir or "/",
            self.state.config.user,
            tuple(self.mount(flag.value, flag.place) for flag in instruction.mounts),
            instruction.network,
            instruction.security,
            script,
            self.scope.proxies,
            title,
        )
        return self.said("RUN " + self.run_text(arguments) + _RAN, layer=True), effect

    def run_text(self, arguments: tuple[str, ...]) -> str:
        """The arguments, after `|N` and the N build arguments declared so far."""
        environment = self.state.environment
        values = [f"{name}={environment.get(name, value or '')}" for name, value in self.state.args.items()]
        return " ".join((f"|{len(values)}", *values, *arguments) if values else arguments)

    def mount(self, value: str, place: Place) -> RunMount:
        def expand(text: str) -> str:
            return self.examined(text, place).text

        try:
            mount = read_mount(value, expand)
        except MountError as error:
            raise self.wrong(f"--mount={value}: {error}", error.hint, place) from None
        if mount.type == "ssh" or (mount.type == "secret" and not mount.target):
            return mount
        target = _absolute(self.state.config.working_dir, mount.target)
        if target == "/":
            raise self.wrong(f"--mount={value}: nothing can be mounted over '/'", "write target=/PATH", place)
        identity = mount.id or target if mount.type == "cache" else mount.id
        return replace(mount, target=target, id=identity)

    def copy(self, instruction: Copy | Add) -> tuple[StageState, Effect]:
        keyword = "ADD" if isinstance(instruction, Add) else "COPY"
        sources = tuple(self.filled(s, "a source") for s in instruction.sources if isinstance(s, str))
        files = tuple(self.heredoc(s) for s in instruction.sources if not isinstance(s, str))
        if keyword == "COPY":
            self.only_paths(sources)
        destination = self.expand(instruction.destination)
        chown, chmod = self.expand(instruction.chown), self.expand(instruction.chmod)
        effect = CopyEffect(
            instruction.place,
            keyword == "ADD",
            sources,
            files,
            _destination(self.state.config.working_dir, destination),
            instruction.from_ if isinstance(instruction, Copy) else "",
            chown,
            chmod,
            instruction.link,
            isinstance(instruction, Copy) and instruction.parents,
            tuple(self.expand(pattern) for pattern in instruction.exclude),
            isinstance(instruction, Add) and instruction.keep_git_dir,
            self.checksum(instruction, sources),
            instruction.unpack if isinstance(instruction, Add) else None,
            self.title(instruction.text),
        )
        said = [keyword]
        said += ["--parents"] if effect.parents else []
        said += [f"--chown={chown}"] if chown else []
        said += [f"--chmod={chmod}"] if chmod else []
        said += [*sources, *(f"<<{file.name}" for file in files), destination]
        return self.said(" ".join(said) + _RAN, layer=True), effect

    def only_paths(self, sources: tuple[str, ...]) -> None:
        for source in sources:
            if source.startswith(("http://", "https://", "git@", "git://", "ssh://")):
                raise self.wrong(f"COPY cannot fetch {source!r}", "ADD can")

    def checksum(self, instruction: Copy | Add, sources: tuple[str, ...]) -> str:
        if not isinstance(instruction, Add) or not instruction.checksum:
            return ""
        if len(instruction.sources) != 1:
            raise self.wrong("--checksum is for one source only")
        if not sources[:1] or ("://" not in sources[0] and not sources[0].startswith("git@")):
            raise self.wrong("--checksum is for a URL")
        checksum = self.expand(instruction.checksum)
        if not _CHECKSUM.match(checksum):
            raise self.wrong(
                f"{checksum!r} is no checksum", "write sha256:HEX, or the commit of a git source"
            )
        return checksum


def _pairs_text(keyword: str, found: list[tuple[str, str, Pair]]) -> str:
    pairs = (f"{name}{' ' if pair.legacy else '='}{value}" for name, value, pair in found)
    return " ".join((keyword, *pairs))


def _absolute(working_dir: str, path: str) -> str:
    """`path` from `working_dir`, without `.`, `..` and double slashes; never above `/`."""
    return posixpath.normpath("/" + posixpath.join("/", working_dir, path).lstrip("/"))


def _destination(working_dir: str, path: str) -> str:
    """As `_absolute`; a slash at the end stays, and `.` means a directory."""
    found = _absolute(working_dir, path)
    directory = path in ("", ".", "..") or path.endswith(("/", "/.", "/.."))
    return found + "/" if directory and found != "/" else found


def _summary(content: str) -> str:
    first, newline, _ = content.strip().replace("\r\n", "\n").partition("\n")
    return first + ("..." if newline else "")


def _with_heredocs(command: CommandLine) -> tuple[CommandLine, InlineFile | None]:
    """The command with its heredocs in it; the script to run, when a heredoc alone begins with `#!`.

    `RUN <<EOF` gives the content to the shell; `RUN cat <<EOF` gives it the whole, heredoc and all.
    """
    if not command.heredocs:
        return command, None
    first = command.heredocs[0]
    if heredoc_word(command.words[0]) is None:
        ends = "".join(f"\n{heredoc.written}{heredoc.name}" for heredoc in command.heredocs)
        return replace(command, words=(command.words[0] + ends,), heredocs=()), None
    if not first.content.startswith("#!"):
        return replace(command, words=(first.content,), heredocs=()), None
    script = InlineFile(first.name, first.content.encode("utf-8", "surrogateescape"))
    return replace(command, words=(f"{SCRIPTS}/{first.name}",), heredocs=()), script
