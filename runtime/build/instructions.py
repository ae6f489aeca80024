"""Values: the instructions of a Dockerfile as they are written; no variable is replaced yet.

Source: Dockerfile reference. Each instruction has its `place`, its `keyword` as the file spells it, and
`text`: the whole of it on one line, continuations joined, without its heredocs.
"""

from __future__ import annotations

from typing import TypeAlias

from runtime.build.problems import BuildWarning, Place
from runtime.build.values import Value


class Heredoc(Value):
    """`<<NAME`: the lines up to the one that is NAME alone.

    `strip_tabs`: written `<<-NAME`; leading tabs are gone from `content` already. `expand`: NAME is not
    quoted, so COPY and ADD replace variables in the content (RUN leaves it to the shell). `written` is the
    content as it stands in the file, tabs and all. `descriptor` is the number before `<<`, "" mostly.
    """

    name: str
    content: str
    written: str
    strip_tabs: bool
    expand: bool
    descriptor: str = ""


class Written(Value, kw_only=True):
    """Where an instruction stands and how it reads."""

    place: Place
    keyword: str
    text: str
    last_line: int


class CommandLine(Value):
    """Exec form (`shell` False): the arguments themselves. Shell form: one text, `words` of length 1.

    `heredocs` follow a shell form only. An exec form may be empty.
    """

    words: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


class Pair(Value):
    """`key=value` of ENV and LABEL, quotes and variables still in it; `legacy`: written `key value`."""

    key: str
    value: str
    legacy: bool
    place: Place


class From(Written, kw_only=True):
    """`FROM [--platform=P] IMAGE [AS NAME]`; `name` is lower case, "" without AS."""

    image: str
    name: str
    platform: str
    as_keyword: str = ""
    written_name: str = ""


class Declared(Value):
    """One name of an ARG; `default` None: it has none."""

    name: str
    default: str | None
    place: Place


class Arg(Written, kw_only=True):
    args: tuple[Declared, ...]


class MountFlag(Value):
    """`--mount=` as it is written; variables may be in it (see `mounts.read_mount`)."""

    value: str
    place: Place


class Run(Written, kw_only=True):
    """`network` is default, none or host; `security` is sandbox or insecure."""

    command: CommandLine
    mounts: tuple[MountFlag, ...] = ()
    network: str = "default"
    security: str = "sandbox"


class Copying(Written, kw_only=True):
    """What COPY and ADD have in common. `sources`: paths, patterns, (ADD:) URLs, and heredocs, as written."""

    sources: tuple[str | Heredoc, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


class Copy(Copying, kw_only=True):
    """`from_`: a stage by name or number, an image, a named context; "": the build context."""

    from_: str = ""
    parents: bool = False


class Add(Copying, kw_only=True):
    """`unpack` None: archives of the context are unpacked, files from a URL are not."""

    keep_git_dir: bool = False
    checksum: str = ""
    unpack: bool | None = None


class Cmd(Written, kw_only=True):
    command: CommandLine


class Entrypoint(Written, kw_only=True):
    command: CommandLine


class Env(Written, kw_only=True):
    pairs: tuple[Pair, ...]


class Label(Written, kw_only=True):
    pairs: tuple[Pair, ...]


class Volume(Written, kw_only=True):
    paths: tuple[str, ...]


class Expose(Written, kw_only=True):
    ports: tuple[str, ...]


class Workdir(Written, kw_only=True):
    path: str


class User(Written, kw_only=True):
    user: str


class Healthcheck(Written, kw_only=True):
    """`command` None: NONE. Durations in nanoseconds, 0: what the image or the engine has as default."""

    command: CommandLine | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Onbuild(Written, kw_only=True):
    """`trigger`: the instruction as text, heredocs included, as it is kept in the image's config."""

    trigger: str


class Shell(Written, kw_only=True):
    words: tuple[str, ...]


class Stopsignal(Written, kw_only=True):
    signal: str


class Maintainer(Written, kw_only=True):
    name: str


#: What stands inside a stage.
Instruction: TypeAlias = (
    Arg
    | Run
    | Copy
    | Add
    | Cmd
    | Entrypoint
    | Env
    | Label
    | Volume
    | Expose
    | Workdir
    | User
    | Healthcheck
    | Onbuild
    | Shell
    | Stopsignal
    | Maintainer
)


class Stage(Value):
    """FROM and what follows it up to the next one."""

    base: From
    instructions: tuple[Instruction, ...]


class Dockerfile(Value):
    """`args` are those before the first FROM. `escape` is the escape character.

    `syntax` is the value of that directive ("" without one; it is not obeyed). `warnings` are those that
    the text alone shows, without the rules that `# check=skip=` names; `skip` are these ("all": every one),
    `warnings_are_errors`: `# check=error=true`.
    """

    name: str
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    syntax: str = ""
    skip: frozenset[str] = frozenset()
    warnings_are_errors: bool = False
    warnings: tuple[BuildWarning, ...] = ()
