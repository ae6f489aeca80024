"""What instructions make of a stage: its config, its history and what they ask of the file system."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.build import stage
from runtime.build.config import ImageConfig, read_config, scratch, stamped, write_config
from runtime.build.dockerfile import DockerfileError, parse
from runtime.build.effects import CopyEffect, Effect, RunEffect, WorkdirEffect
from runtime.build.graph import StageBase, plan
from runtime.build.stage import DEFAULT_PATH, StageState
from runtime.build.values import replace

BASE = ImageConfig(architecture="amd64")


class Built:
    """Every stage of the text stepped through, without touching any file."""

    def __init__(self, text: str, base: ImageConfig = BASE, **args: str) -> None:
        graph = plan(parse(text.encode()), build_platform="linux/amd64", args=args)
        self.effects: list[Effect] = []
        self.warnings: list[str] = []
        states: dict[int, StageState] = {}
        for planned in graph.stages:
            if isinstance(planned.base, StageBase):
                state = stage.continue_from(states[planned.base.index])
            else:
                state = stage.begin(base)
            for instruction in planned.instructions:
                stepped = stage.step(state, instruction, graph.scope)
                state = stepped.state
                self.effects += [stepped.effect] if stepped.effect else []
                self.warnings += [str(w).removeprefix("Dockerfile:") for w in stepped.warnings]
            states[planned.index] = state
        self.state = states[graph.target.index]
        self.config = self.state.config

    @property
    def said(self) -> list[str]:
        return [entry.created_by for entry in self.config.history]

    @property
    def run(self) -> RunEffect:
        runs = [effect for effect in self.effects if isinstance(effect, RunEffect)]
        return runs[-1]

    @property
    def copy(self) -> CopyEffect:
        copies = [effect for effect in self.effects if isinstance(effect, CopyEffect)]
        return copies[-1]


def built(text: str, base: ImageConfig = BASE, **args: str) -> Built:
    return Built("FROM base\n" + text, base, **args)


def problem(text: str) -> str:
    with pytest.raises(DockerfileError) as caught:
        built(text)
    return str(caught.value).removeprefix("Dockerfile:")


def environment(text: str, **args: str) -> dict[str, str]:
    """What RUN sees at the end, without PATH."""
    found = dict(built(text + "\nRUN x", **args).run.environment)
    del found["PATH"]
    return found


# ---------------------------------------------------------------- variables


def test_variables_are_those_before_the_instruction() -> None:
    result = built("ENV a=hello\nENV a=bye d=$a e=${a}!\nENV g=$a")
    assert dict(result.config.env) == {
        "PATH": DEFAULT_PATH,
        "a": "bye",
        "d": "hello",
        "e": "hello!",
        "g": "bye",
    }


def test_the_environment_of_the_base_is_kept_in_its_order() -> None:
    base = replace(BASE, env={"B": "1", "PATH": "/b", "A": "2"})
    result = built("ENV A=3 C=$B:$PATH", base)
    assert list(result.config.env.items()) == [("B", "1"), ("PATH", "/b"), ("A", "3"), ("C", "1:/b")]


@pytest.mark.parametrize(
    ("text", "args", "expected"),
    [
        ("ARG A", {}, {}),
        ("ARG A", {"A": "1"}, {"A": "1"}),
        ("ARG A=d", {}, {"A": "d"}),
        ("ARG A=d", {"A": ""}, {"A": ""}),
        ("ARG A=1 B=$A", {}, {"A": "1", "B": "1"}),
        ("ARG A=1\nARG A", {}, {"A": "1"}),
        ("ARG A=$B", {"A": "$B", "B": "x"}, {"A": "$B"}),
        ("ENV A=env\nARG A=arg", {}, {"A": "arg"}),
        ("ARG A=arg\nENV A=env", {"A": "given"}, {"A": "env"}),
        ("ARG A=arg\nENV A=${A:-x}", {}, {"A": "arg"}),
        ("ARG TARGETARCH", {}, {"TARGETARCH": "amd64"}),
        ("RUN x", {"TARGETARCH": "y"}, {}),
        ("RUN x", {"A": "undeclared"}, {}),
    ],
)
def test_a_build_argument_is_seen_from_its_declaration_on(
    text: str, args: dict[str, str], expected: dict[str, str]
) -> None:
    assert environment(text, **args) == expected


def test_an_argument_before_the_first_from_is_seen_where_it_is_declared_again() -> None:
    text = "ARG V=1\nFROM a\nRUN x\nFROM b\nARG V\nRUN x\nFROM c\nARG V=2\nRUN x"
    seen = [effect.environment.get("V") for effect in Built(text).effects if isinstance(effect, RunEffect)]
    assert seen == [None, "1", "2"]


def test_arguments_end_with_their_stage_and_go_on_in_a_stage_that_begins_from_it() -> None:
    text = "FROM a AS one\nARG V=1\nENV W=2\nFROM one\nRUN x\nFROM b\nRUN x"
    seen = [dict(effect.environment) for effect in Built(text).effects if isinstance(effect, RunEffect)]
    assert seen[0]["V"] == "1" and seen[0]["W"] == "2"
    assert "V" not in seen[1] and "W" not in seen[1]


def test_arguments_are_no_part_of_the_image() -> None:
    assert "A" not in built("ARG A=1\nRUN x").config.env


def test_proxies_need_no_declaration_and_leave_no_trace() -> None:
    result = built("RUN x", http_proxy="http://p", NO_PROXY="localhost")
    assert result.run.proxies == (
        ("NO_PROXY", "localhost"),
        ("no_proxy", "localhost"),
        ("HTTP_PROXY", "http://p"),
        ("http_proxy", "http://p"),
    )
    assert result.said == ["RUN /bin/sh -c x # buildkit"]
    assert "http_proxy" not in result.run.environment


def test_a_variable_that_nothing_sets_is_a_warning() -> None:
    assert built("ENV VERSION=1\nCOPY a$VERSOIN /\nLABEL a=$V").warnings == [
        "3:1: UndefinedVar: variable '$VERSOIN' is not set (did you mean 'VERSION'?)",
        "4:7: UndefinedVar: variable '$V' is not set",
    ]
    assert built('ARG V\nLABEL a=$V\nRUN $x\nENTRYPOINT ["$x"]\nLABEL b=${V:-y}').warnings == []


def test_words_that_mean_nothing_are_named_with_their_place() -> None:
    assert problem('ENV A=1 \\\n  B="${C:?set C}"') == "3:3: C: set C in '\"${C:?set C}\"'"
    assert problem("ARG A=b=c\nENV $A=1") == "3:5: '=' cannot be in a name of ENV ('b=c')"
    assert problem("ENV $A=1") == "2:5: a name of ENV is empty: '$A' has no value"
    assert problem("STOPSIGNAL ${A}") == "2:1: STOPSIGNAL is empty: '${A}' has no value"
    assert problem("VOLUME /a $A") == "2:1: a path of VOLUME is empty: '$A' has no value"
    assert problem("ENV FILE=x\nCOPY $FIEL /x") == (
        "3:1: a source is empty: '$FIEL' has no value (did you mean 'FILE'?)"
    )


def test_an_empty_workdir_or_user_changes_nothing_or_is_root() -> None:
    config = built("WORKDIR /a\nWORKDIR $A\nUSER u\nUSER $U").config
    assert (config.working_dir, config.user) == ("/a", "")


def test_values_that_double_end_at_a_limit() -> None:
    text = "ENV A=" + "x" * 1000 + "\n" + "ENV A=$A$A\n" * 30
    assert "it becomes longer than 1048576 characters" in problem(text)
    text = "ENV A=" + "x" * 100_000 + "\n" + "ENV B=$A\n" * 100
    assert f"history becomes longer than {stage.MAX_HISTORY} characters" in problem(text)


def test_instructions_for_the_shell_are_not_expanded() -> None:
    text = 'ENV V=1\nRUN echo $V\nCMD echo $V\nENTRYPOINT ["$V"]\nHEALTHCHECK CMD $V\n'
    text += 'SHELL ["$V"]\nONBUILD RUN $V'
    config = built(text).config
    assert (config.cmd, config.entrypoint) == (("/bin/sh", "-c", "echo $V"), ("$V",))
    assert config.healthcheck is not None and config.healthcheck.test == ("CMD-SHELL", "$V")
    assert (config.shell, config.on_build) == (("$V",), ("RUN $V",))
    assert built(text).run.arguments == ("/bin/sh", "-c", "echo $V")


# ---------------------------------------------------------------- commands


def test_an_entrypoint_takes_the_place_of_the_bases_cmd_but_not_of_ones_own() -> None:
    base = replace(BASE, cmd=("base",), entrypoint=("old",))
    assert built('ENTRYPOINT ["new"]', base).config.cmd is None
    assert built('CMD ["own"]\nENTRYPOINT ["new"]', base).config.cmd == ("own",)
    assert built('ENTRYPOINT ["new"]\nCMD ["own"]', base).config.cmd == ("own",)
    assert built('CMD ["own"]', base).config.entrypoint == ("old",)
    assert built("ENTRYPOINT []", base).config.entrypoint is None
    text = 'FROM base AS one\nCMD ["own"]\nFROM one\nENTRYPOINT ["new"]'
    assert Built(text).config.cmd is None


def test_shell_changes_the_shell_form_from_there_on() -> None:
    result = built('RUN a\nSHELL ["bash", "-euc"]\nRUN b\nCMD c\nRUN ["d"]')
    runs = [effect.arguments for effect in result.effects if isinstance(effect, RunEffect)]
    assert runs == [("/bin/sh", "-c", "a"), ("bash", "-euc", "b"), ("d",)]
    assert result.config.cmd == ("bash", "-euc", "c")
    assert result.warnings == []  # a shell was chosen


def test_only_the_last_of_some_instructions_counts() -> None:
    result = built('CMD ["a"]\nCMD ["b"]\nHEALTHCHECK CMD a\nHEALTHCHECK NONE')
    assert result.config.cmd == ("b",)
    assert result.config.healthcheck is not None and result.config.healthcheck.test == ("NONE",)
    assert result.warnings == [
        "2:1: MultipleInstructionsDisallowed: only the last CMD of a stage counts",
        "4:1: MultipleInstructionsDisallowed: only the last HEALTHCHECK of a stage counts",
    ]


def test_a_shell_form_that_gets_no_signals_is_a_warning() -> None:
    assert built("ENTRYPOINT a").warnings == [
        "2:1: JSONArgsRecommended: write ENTRYPOINT as a JSON array: a shell does not pass signals on"
    ]


def test_a_heredoc_alone_is_a_script() -> None:
    result = built("RUN <<-EOF\n\ta\n\tb $V\n\tEOF")
    assert (result.run.arguments, result.run.script) == (("/bin/sh", "-c", "a\nb $V\n"), None)
    result = built("RUN <<EOF\n#!/usr/bin/env python\nx\nEOF")
    assert result.run.arguments == ("/bin/sh", "-c", "/dev/pipes/EOF")
    assert result.run.script is not None and result.run.script.content == b"#!/usr/bin/env python\nx\n"


def test_a_command_with_heredocs_is_left_to_the_shell_as_it_stands() -> None:
    result = built("RUN cat <<-A > /x && cat <<'B'\n\tone\n\tA\ntwo\nB\n")
    assert result.run.arguments[2] == "cat <<-A > /x && cat <<'B'\n\tone\nA\ntwo\nB"


def test_mounts_have_values_and_absolute_targets() -> None:
    text = "ARG D=cache\nWORKDIR /w\nRUN --mount=type=$D,target=$D --mount=type=secret,id=$D,env=S x"
    cache, secret = built(text).run.mounts
    assert (cache.type, cache.target, cache.id, cache.read_only) == ("cache", "/w/cache", "/w/cache", False)
    assert (secret.id, secret.target, secret.env, secret.mode) == ("cache", "", "S", 0o400)
    result = built(
        "RUN --mount=type=bind,target=. --mount=type=ssh --mount=type=secret,target=/a/b x",
        replace(BASE, working_dir="/w"),
    )
    bind, ssh, secret = result.run.mounts
    assert (bind.target, bind.read_only, ssh.id, ssh.mode) == ("/w", True, "default", 0o600)
    assert (secret.id, secret.target) == ("b", "/a/b")


def test_a_mount_that_turns_out_wrong_is_named() -> None:
    assert problem("ARG T=x\nRUN --mount=type=$T,target=/a b").startswith(
        "3:5: --mount=type=$T,target=/a: type is"
    )
    assert problem("RUN --mount=type=bind b") == (
        "2:5: --mount=type=bind: nothing can be mounted over '/' (write target=/PATH)"
    )


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["/a"], "/a"),
        (["/a", "b", "c/../d"], "/a/b/d"),
        (["a"], "/a"),
        (["/a/../../.."], "/"),
        (["//a//b/"], "/a/b"),
        (["$HERE/x"], "/here/x"),
    ],
)
def test_workdir_goes_on_from_the_one_before(steps: list[str], expected: str) -> None:
    result = built("ENV HERE=/here\n" + "\n".join("WORKDIR " + step for step in steps))
    assert result.config.working_dir == expected
    made = [effect.path for effect in result.effects if isinstance(effect, WorkdirEffect)]
    assert (made[-1:] or ["/"]) == [expected]


def test_a_relative_workdir_is_a_warning_until_an_absolute_one_stood() -> None:
    assert built("WORKDIR a\nWORKDIR b").warnings == [
        "2:1: WorkdirRelativePath: WORKDIR 'a' depends on the base image's"
    ]
    assert built("WORKDIR /a\nWORKDIR b").warnings == []


def test_a_workdir_is_made_for_the_user() -> None:
    effect = built("USER me:us\nWORKDIR /a").effects[0]
    assert isinstance(effect, WorkdirEffect) and effect.user == "me:us"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("a", "/w/a"),
        (".", "/w/"),
        ("./", "/w/"),
        ("..", "/"),
        ("/a/.", "/a/"),
        ("/a/../../b", "/b"),
        ("/", "/"),
        ("$D/x", "/d/x"),
    ],
)
def test_a_destination_is_absolute_and_keeps_its_slash(written: str, expected: str) -> None:
    assert built(f"ENV D=/d\nWORKDIR /w\nCOPY a {written}").copy.destination == expected


def test_copy_replaces_variables_in_all_that_it_has() -> None:
    result = built(
        "ARG A=1 B=b\nCOPY --chown=$A:$B --chmod=0$A --exclude=*.$B $A '$B' <<X <<'Y' /$A/\n"
        '$A "q" \\$B\nX\n$A\nY'
    )
    copy = result.copy
    assert (copy.chown, copy.chmod, copy.exclude) == ("1:b", "01", ("*.b",))
    assert (copy.sources, copy.destination) == (("1", "$B"), "/1/")
    assert [(file.name, file.content) for file in copy.files] == [("X", b'1 "q" $B\n'), ("Y", b"$A\n")]


def test_copy_fetches_nothing_and_a_checksum_is_for_one_url() -> None:
    assert problem("COPY https://a/b /") == "2:1: COPY cannot fetch 'https://a/b' (ADD can)"
    assert problem("ADD --checksum=sha256:0 a /") == "2:1: --checksum is for a URL"
    assert (
        problem("ADD --checksum=sha256:0 https://a https://b /") == "2:1: --checksum is for one source only"
    )
    assert problem("ADD --checksum=sha256:0 https://a /") == (
        "2:1: 'sha256:0' is no checksum (write sha256:HEX, or the commit of a git source)"
    )
    sum = "sha256:" + "0" * 64
    assert built(f"ARG S={sum}\nADD --checksum=$S https://a/b /").copy.checksum == sum


# ---------------------------------------------------------------- the config


def test_ports_are_spelled_out() -> None:
    result = built('ARG P="90 91/udp"\nEXPOSE 80 443/TCP 8000-8002/udp $P 1:82')
    assert result.config.exposed_ports == {
        "80/tcp",
        "82/tcp",
        "90/tcp",
        "91/udp",
        "443/tcp",
        "8000/udp",
        "8001/udp",
        "8002/udp",
    }
    assert result.warnings == [
        "3:1: ExposeInvalidFormat: '1:82' should have no address and no port of the host",
        "3:1: ExposeProtoCasing: the protocol in '443/TCP' should be lower case",
    ]


@pytest.mark.parametrize("port", ["x", "70000", "9-8", "80/icmp", "-1", "80-", "/tcp"])
def test_a_wrong_port_is_refused(port: str) -> None:
    assert problem(f"EXPOSE {port}").startswith(f"2:1: EXPOSE: '{port}'")


@pytest.mark.parametrize("signal", ["SIGQUIT", "term", "9", "SIGRTMIN+3", "64"])
def test_a_signal_is_a_name_or_a_number(signal: str) -> None:
    assert built("STOPSIGNAL " + signal).config.stop_signal == signal


def test_a_wrong_signal_is_refused() -> None:
    assert problem("STOPSIGNAL SIGTREM") == "2:1: 'SIGTREM' is not a signal (did you mean 'SIGTERM'?)"
    assert problem("STOPSIGNAL 0") == "2:1: '0' is not a signal"
    assert problem("STOPSIGNAL 65") == "2:1: '65' is not a signal"


def test_labels_and_volumes_are_added_to_those_of_the_base() -> None:
    base = replace(
        BASE, labels={"a": "1", "b": "2"}, volumes=frozenset({"/x"}), exposed_ports=frozenset({"1/tcp"})
    )
    config = built("LABEL b=3 'c d'=\"4 5\"\nVOLUME /y\nEXPOSE 2", base).config
    assert config.labels == {"a": "1", "b": "3", "c d": "4 5"}
    assert config.volumes == {"/x", "/y"} and config.exposed_ports == {"1/tcp", "2/tcp"}


def test_history_reads_as_buildkit_writes_it() -> None:
    text = """ARG A=1 B
ENV X=1 Y="a b"
ENV OLD way
LABEL l=m
WORKDIR /w
RUN echo $X
COPY --chown=1:2 --chmod=755 a b /d/
ADD <<EOF /x
EOF
CMD ["a", "b\\"c"]
ENTRYPOINT run
EXPOSE 80
USER u
VOLUME /v /w
STOPSIGNAL TERM
SHELL ["sh", "-c"]
HEALTHCHECK --interval=90s CMD x y
MAINTAINER m e
WORKDIR /
ONBUILD RUN x"""
    result = built(text)
    assert result.said == [
        "ARG A=1 B",
        "ENV X=1 Y=a b",
        "ENV OLD way",
        "LABEL l=m",
        "WORKDIR /w",
        "RUN |2 A=1 B= /bin/sh -c echo $X # buildkit",
        "COPY --chown=1:2 --chmod=755 a b /d/ # buildkit",
        "ADD <<EOF /x # buildkit",
        'CMD ["a" "b\\"c"]',
        'ENTRYPOINT ["/bin/sh" "-c" "run"]',
        "EXPOSE [80/tcp]",
        "USER u",
        "VOLUME [/v /w]",
        "STOPSIGNAL TERM",
        "SHELL [sh -c]",
        "HEALTHCHECK {Test:[CMD-SHELL x y] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s"
        " Retries:0}",
        "MAINTAINER m e",
        "WORKDIR /",
    ]
    layers = [entry.created_by.split()[0] for entry in result.config.history if not entry.empty_layer]
    assert layers == ["WORKDIR", "RUN", "COPY", "ADD"] and len(result.effects) == 4


def test_steps_are_titled_with_their_values() -> None:
    result = built("ARG A=1\nrun echo   $A ${B}\nCOPY a /$A\nRUN <<EOF\n\nfirst\nsecond\nEOF")
    assert [effect.title for effect in result.effects if effect] == [
        "RUN echo   1 ${B}",
        "COPY a /1",
        "RUN <<EOF (first...)",
    ]


def test_titles_are_short_and_tell_a_terminal_nothing() -> None:
    result = built("RUN echo \x1b[2J" + "x" * 5000 + "\nRUN <<A\n\x1b[31mred\nA\nRUN\techo a")
    titles = [effect.title for effect in result.effects if effect]
    assert all(title.isprintable() and len(title) < 1000 for title in titles)
    assert titles[0].startswith("RUN echo \\x1b[2Jxxx")
    assert titles[1:] == ["RUN <<A (\\x1b[31mred)", "RUN echo a"]


def test_what_stages_pass_on_are_no_triggers() -> None:
    base = replace(BASE, on_build=("RUN base",))
    assert built("RUN x", base).config.on_build == ()
    assert Built("FROM a AS b\nONBUILD RUN x\nFROM b").config.on_build == ()
    assert Built("FROM a AS b\nONBUILD RUN x").config.on_build == ("RUN x",)


def test_a_stage_from_nothing_begins_in_the_root() -> None:
    state = stage.begin(scratch("arm", "v7"))
    written = json.loads(write_config(state.config, [], "2020-01-01T00:00:00Z"))
    assert written == {
        "architecture": "arm",
        "variant": "v7",
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {"Env": ["PATH=" + DEFAULT_PATH], "WorkingDir": "/"},
        "history": [],
        "rootfs": {"type": "layers", "diff_ids": []},
    }


# ---------------------------------------------------------------- JSON

WHOLE: dict[str, Any] = {
    "architecture": "arm64",
    "variant": "v8",
    "os": "linux",
    "os.version": "x",
    "author": "me",
    "created": "2019-01-01T00:00:00Z",
    "config": {
        "User": "u",
        "ExposedPorts": {"80/tcp": {}},
        "Env": ["PATH=/p", "A=b=c", "EMPTY="],
        "Entrypoint": ["e"],
        "Cmd": ["c", "d"],
        "Volumes": {"/v": {}},
        "WorkingDir": "/w",
        "Labels": {"l": "m"},
        "StopSignal": "TERM",
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 2},
        "Shell": ["s"],
        "NewKey": {"kept": [1]},
    },
    "history": [
        {"created": "2019-01-01T00:00:00Z", "created_by": "x", "comment": "y", "author": "z"},
        {"created_by": "w", "empty_layer": True},
    ],
    "rootfs": {"type": "layers", "diff_ids": ["sha256:a"]},
}


def test_a_config_is_written_as_it_was_read() -> None:
    config = read_config(json.dumps(WHOLE).encode())
    assert json.loads(write_config(config, ["sha256:a"], WHOLE["created"])) == WHOLE


def test_the_same_config_is_always_the_same_bytes() -> None:
    config = read_config(json.dumps(WHOLE).encode())
    shuffled = json.dumps(dict(reversed(WHOLE.items()))).encode()
    assert write_config(config, [], "t") == write_config(read_config(shuffled), [], "t")


def test_what_a_container_left_in_a_config_is_dropped() -> None:
    old = {**WHOLE, "container": "x", "container_config": {"Cmd": ["y"]}, "docker_version": "1"}
    assert read_config(json.dumps(old).encode()) == read_config(json.dumps(WHOLE).encode())


def test_times_of_history_are_filled_in_once() -> None:
    first = stamped(built("RUN a\nENV b=c", read_config(json.dumps(WHOLE).encode())).config, "t1")
    assert [entry.created for entry in first.history] == ["2019-01-01T00:00:00Z", "", "t1", "t1"]
    assert stamped(first, "t2") == first
    written = json.loads(write_config(first, [], "t3"))
    assert [entry.get("created") for entry in written["history"]][1:] == [None, "t1", "t1"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{\xff",
        b'{"config": []}',
        b'{"config": {"Env": "A=b"' + b"}" * 2,
        b'{"config": {"Env": [1]}}',
        b'{"config": {"Labels": {"a": 1}}}',
        b'{"config": {"Healthcheck": {"Interval": "1s"}}}',
        b'{"history": {"a": 1}}',
        b'{"history": [1]}',
        b'{"os": 1}',
        b"[" * 100_000,
    ],
)
def test_a_config_that_is_none_is_refused(data: bytes) -> None:
    if b'"A=b"' in data:  # a string is an old form of a list
        assert read_config(data).env == {"A": "b"}
        return
    with pytest.raises(ValueError):
        read_config(data)


def test_a_lone_surrogate_does_not_stop_the_writing() -> None:
    config = read_config(b'{"architecture": "x", "config": {"Labels": {"a": "\\ud800"}}}')
    assert json.loads(write_config(config, [], "t"))["config"]["Labels"] == {"a": "?"}
