"""Reading a Dockerfile: each instruction, each mistake with its place, what is odd but builds."""

from __future__ import annotations

from typing import TypeVar

import pytest

from runtime.build import lines
from runtime.build.dockerfile import DockerfileError, parse, parse_trigger
from runtime.build.instructions import (
    Add,
    Cmd,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from runtime.build.problems import Place

T = TypeVar("T", bound=Instruction)


def read(text: str) -> Dockerfile:
    return parse(text.encode())


def one(kind: type[T], text: str) -> T:
    """The instruction that the text is, in a stage."""
    instructions = read("FROM scratch\n" + text).stages[0].instructions
    assert len(instructions) == 1
    assert isinstance(instructions[0], kind)
    return instructions[0]


def problems(text: str) -> list[str]:
    with pytest.raises(DockerfileError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def problem(text: str) -> str:
    """The only problem of the instruction, without its file."""
    found = problems("FROM scratch\n" + text)
    assert len(found) == 1, found
    return found[0].removeprefix("Dockerfile:")


def warnings(text: str) -> list[str]:
    return [str(warning).removeprefix("Dockerfile:") for warning in read(text).warnings]


def rules(text: str) -> list[str]:
    return [warning.rule for warning in read(text).warnings]


# ---------------------------------------------------------------- lines


def test_lines_are_joined_without_the_comments_and_empty_lines_between() -> None:
    run = one(Run, "RUN a \\\n# comment\n   # another\n\n  b \\   \n\tc\n")
    assert run.command.words == ("a   b \tc",)


def test_a_protected_escape_character_joins_nothing() -> None:
    assert one(Run, "RUN a\\\\").command.words == ("a\\\\",)


def test_a_line_may_begin_with_blanks_and_end_the_windows_way() -> None:
    file = parse(b"\xef\xbb\xbf  FROM scratch\r\n\tRUN\ta \\\r\n  b\r\n\r\n")
    assert isinstance(run := file.stages[0].instructions[0], Run)
    assert run.command.words == ("a   b",)
    assert run.place == Place("Dockerfile", 2, 2)


def test_instructions_are_read_in_any_case() -> None:
    file = read("from scratch as B\nrUn x\n")
    assert file.stages[0].base.name == "b"
    assert isinstance(file.stages[0].instructions[0], Run)


def test_a_hash_within_a_line_begins_no_comment() -> None:
    assert one(Run, "RUN echo a # b").command.words == ("echo a # b",)


def test_places_are_those_of_the_file_across_continuations() -> None:
    assert problems("FROM scratch\n  COPY \\\n    --chwon=1 a b") == [
        "Dockerfile:3:5: unknown flag --chwon for COPY (did you mean 'chown'?)"
    ]


def test_an_instruction_may_begin_on_a_continuation() -> None:
    file = read("\\\n  FROM scratch\n \\\n\\\n  RUN a\n")
    assert file.stages[0].base.place == Place("Dockerfile", 2, 3)
    assert file.stages[0].instructions[0].place == Place("Dockerfile", 5, 3)


def test_a_file_that_ends_in_a_continuation_ends_there() -> None:
    assert one(Run, "RUN a \\").command.words == ("a",)


# ---------------------------------------------------------------- directives


def test_directives_count_at_the_very_top_only() -> None:
    file = read("# syntax = docker/dockerfile:1\n#escape=`\n# check=skip=all\nFROM scratch\nRUN a `\n b")
    assert (file.syntax, file.escape, file.skip) == ("docker/dockerfile:1", "`", {"all"})
    for before in ("# a comment\n", "\n", "# unknown=x\n", "FROM scratch\n"):
        assert read(before + "# escape=`\nFROM scratch").escape == "\\"


def test_another_escape_character_joins_lines_and_protects() -> None:
    file = read("# escape=`\nFROM scratch\nCOPY a c:\\\nRUN a `\n b\nENV A=b` c")
    copy, run, env = file.stages[0].instructions
    assert isinstance(copy, Copy) and copy.destination == "c:\\"
    assert isinstance(run, Run) and run.command.words == ("a  b",)
    assert isinstance(env, Env) and env.pairs[0].value == "b` c"


def test_a_directive_is_given_once_and_has_a_known_value() -> None:
    assert problems("# escape=x\n# syntax=a\n# syntax=b\nFROM scratch") == [
        "Dockerfile:1:1: the escape character is \\ or `, not 'x'",
        "Dockerfile:3:1: only one 'syntax' directive can be used",
    ]
    assert problems("# check=sip=a\nFROM scratch") == [
        "Dockerfile:1:1: check is skip=RULE,... and error=true, not 'sip=a'"
    ]


def test_checks_are_skipped_by_name_and_become_errors() -> None:
    text = "FROM scratch\nMAINTAINER me\nENV A b\n"
    assert rules(text) == ["MaintainerDeprecated", "LegacyKeyValueFormat"]
    assert rules("# check=skip=MaintainerDeprecated\n" + text) == ["LegacyKeyValueFormat"]
    assert rules("# check=skip=all\n" + text) == []
    file = read("# check=skip=LegacyKeyValueFormat, NewerThanThis;error=true\n" + text)
    assert (file.warnings_are_errors, [w.rule for w in file.warnings]) == (True, ["MaintainerDeprecated"])


# ---------------------------------------------------------------- FROM and ARG


def test_from_has_image_platform_and_name() -> None:
    base = read("FROM --platform=$BUILDPLATFORM golang:1 AS Build").stages[0].base
    assert (base.image, base.platform, base.name) == ("golang:1", "$BUILDPLATFORM", "build")


def test_arguments_before_the_first_stage_are_apart() -> None:
    file = read("ARG A=1 B\nARG C='x y'\nFROM scratch\nARG A\n")
    assert [(d.name, d.default) for a in file.args for d in a.args] == [
        ("A", "1"),
        ("B", None),
        ("C", "'x y'"),
    ]
    assert file.stages[0].instructions[0].keyword == "ARG"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM", "1:1: FROM takes IMAGE or IMAGE AS NAME (FROM scratch begins with nothing)"),
        ("FROM a b", "1:6: FROM takes IMAGE or IMAGE AS NAME (FROM IMAGE AS NAME)"),
        ("FROM a in b", "1:6: FROM takes IMAGE or IMAGE AS NAME"),
        ("FROM a AS 1b", "1:11: '1b' is no name for a stage (a letter, then letters, digits and - _ .)"),
        ("FROM --platfrom=x a", "1:6: unknown flag --platfrom for FROM (did you mean 'platform'?)"),
        ("FROM --platform a", "1:6: --platform has no value (write --platform=VALUE)"),
        ("RUN a\nFROM b", "1:1: RUN stands before the first FROM (only ARG can)"),
    ],
)
def test_a_wrong_from_is_refused(text: str, expected: str) -> None:
    assert problems(text) == ["Dockerfile:" + expected]


def test_a_file_without_a_stage_is_refused() -> None:
    assert problems("") == ["Dockerfile: it has no instructions (begin it with FROM IMAGE)"]
    assert problems("# FROM scratch\n") == ["Dockerfile: it has no instructions (begin it with FROM IMAGE)"]
    assert problems("ARG A") == ["Dockerfile: no stage to build: it has no FROM (begin it with FROM IMAGE)"]


def test_what_follows_a_wrong_from_is_not_said_to_stand_before_it() -> None:
    assert problems("FROM a b\nRUN x\n") == [
        "Dockerfile:1:6: FROM takes IMAGE or IMAGE AS NAME (FROM IMAGE AS NAME)"
    ]
    assert problems("ARG =\nRUN x\nFROM a\n") == [
        "Dockerfile:1:5: ARG needs a name before '='",
        "Dockerfile:2:1: RUN stands before the first FROM (only ARG can)",
    ]


def test_every_problem_is_named_at_once_with_what_was_meant() -> None:
    assert problems("FORM scratch\nRUN\nFROM scratch\nCOYP a b\nENV A\n  ADD --link=maybe x y\n") == [
        "Dockerfile:1:1: unknown instruction 'FORM' (did you mean 'FROM'?)",
        "Dockerfile:2:1: RUN needs a command",
        "Dockerfile:4:1: unknown instruction 'COYP' (did you mean 'COPY'?)",
        "Dockerfile:5:5: ENV has no value for 'A' (ENV A=VALUE)",
        "Dockerfile:6:7: --link is true or false, not 'maybe'",
    ]


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("kind", [Run, Cmd, Entrypoint])
def test_a_command_is_words_or_a_text_for_the_shell(kind: type[Run] | type[Cmd] | type[Entrypoint]) -> None:
    keyword = kind.__name__.upper()
    exec_form = one(kind, keyword + ' [ "a" ,\t"b c", "\\u00e9\\n" ]  ').command
    assert (exec_form.words, exec_form.shell) == (("a", "b c", "é\n"), False)
    shell_form = one(kind, keyword + "  a 'b c' | d").command
    assert (shell_form.words, shell_form.shell) == (("a 'b c' | d",), True)


@pytest.mark.parametrize("text", ["['a']", '["a"', '["a"] b', '["a",]', "[a]", '["\t"]', "[NaN]"])
def test_what_is_no_json_is_a_text_for_the_shell(text: str) -> None:
    command = one(Cmd, "CMD " + text).command
    assert (command.words, command.shell) == ((text,), True)


def test_json_that_nests_without_end_is_a_text_for_the_shell() -> None:
    assert one(Cmd, "CMD " + "[" * 100_000).command.shell


def test_a_json_array_has_strings_only() -> None:
    expected = "2:5: a JSON array of arguments has only strings in it"
    assert problem('CMD ["a", 1]') == expected
    assert problem('CMD ["a", ["b"]]') == expected


def test_a_nul_is_in_no_path_and_no_argument() -> None:
    for text in ('RUN ["a\\u0000"]', 'COPY ["a\\u0000", "b"]', 'VOLUME ["\\u0000"]', 'SHELL ["\\u0000"]'):
        assert problem(text).endswith("a NUL character can be in no path and no argument")


def test_cmd_and_entrypoint_may_be_empty_and_run_may_not() -> None:
    assert one(Cmd, "CMD []").command.words == ()
    assert one(Entrypoint, "ENTRYPOINT []").command.words == ()
    assert problem("RUN []") == "2:5: RUN needs a command"
    assert problem("CMD") == "2:1: CMD needs a command"


def test_run_has_mounts_network_and_security() -> None:
    run = one(
        Run, "RUN --mount=type=cache,target=/c --mount=type=secret,id=s --network=none --security=insecure a"
    )
    assert [mount.value for mount in run.mounts] == ["type=cache,target=/c", "type=secret,id=s"]
    assert (run.network, run.security, run.command.words) == ("none", "insecure", ("a",))
    assert one(Run, "RUN a --mount=x").command.words == ("a --mount=x",)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--network=bridge", "--network is default, none, host, not 'bridge'"),
        ("--security=no", "--security is sandbox, insecure, not 'no'"),
        ("--network=none --network=none", "--network is given twice"),
        ("--mount=type=bnid", "type is bind, cache, tmpfs, secret, ssh, not 'bnid' (did you mean 'bind'?)"),
        ("--mount=tpye=bind", "unknown key 'tpye' in --mount (did you mean 'type'?)"),
        ("--mount=type=cache", "a cache mount needs a target (write target=/PATH)"),
        ("--mount=type=bind,from=$x", "no variable can be in from= (name a stage with FROM"),
        ("--mount=type=bind,size=1g", "'size' is not for mounts of type bind"),
        ("--mount=type=tmpfs,target=/t,size=big", "'big' is not a size (write 64m or 1g)"),
        ("--mount=type=cache,target=/t,mode=9", "'9' is no mode (write it in octal digits)"),
        ("--mount=type=cache,target=/t,uid=root", "'root' is no uid (write a number)"),
        ("--mount=type=secret", "a secret mount needs an id or a target (write id=NAME)"),
        ("--mount=type=cache,target=/t,sharing=mine", "sharing is shared, private, locked, not 'mine'"),
        ("--mount=type=bind,target", "'target' in --mount has no value (write target=VALUE)"),
        ("--mount", "--mount has no value (write --mount=VALUE)"),
    ],
)
def test_a_wrong_flag_of_run_is_refused(flag: str, expected: str) -> None:
    found = problem(f"RUN {flag} a")
    assert found.partition(": ")[2].startswith(expected)


def test_a_mount_with_variables_is_looked_at_when_they_are_known() -> None:
    assert one(Run, "RUN --mount=type=$T,target=$P a").mounts[0].value == "type=$T,target=$P"


def test_healthcheck_has_all_its_options() -> None:
    check = one(
        Healthcheck,
        "HEALTHCHECK --interval=1m30s --timeout=3s --start-period=1.5s --start-interval=200ms \\\n"
        "  --retries=5 \\\n"
        '  CMD ["curl", "-f"]',
    )
    assert check.command is not None and check.command.words == ("curl", "-f")
    seconds = 1_000_000_000
    assert (check.interval, check.timeout, check.start_period) == (90 * seconds, 3 * seconds, 1_500_000_000)
    assert (check.start_interval, check.retries) == (200_000_000, 5)
    assert one(Healthcheck, "HEALTHCHECK none").command is None
    shell = one(Healthcheck, "HEALTHCHECK  cmd  curl -f  x").command
    assert shell is not None and (shell.words, shell.shell) == (("curl -f  x",), True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HEALTHCHECK", "2:1: HEALTHCHECK needs CMD or NONE"),
        ("HEALTHCHECK CMD", "2:13: HEALTHCHECK CMD needs a command"),
        ("HEALTHCHECK CMD []", "2:17: HEALTHCHECK CMD needs a command"),
        ("HEALTHCHECK NONE x", "2:18: HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CURL x", "2:13: HEALTHCHECK takes CMD or NONE, not 'CURL'"),
        (
            "HEALTHCHECK --interval=1x CMD a",
            "2:13: --interval: '1x' is not a duration (write 30s, 1m30s, 500ms)",
        ),
        ("HEALTHCHECK --interval=1us CMD a", "2:13: --interval is 0 or at least 1ms, not '1us'"),
        ("HEALTHCHECK --retries=-1 CMD a", "2:13: --retries is a number, 0 or more, not '-1'"),
    ],
)
def test_a_wrong_healthcheck_is_refused(text: str, expected: str) -> None:
    assert problem(text) == expected


# ---------------------------------------------------------------- COPY and ADD


def test_copy_has_all_its_flags() -> None:
    copy = one(
        Copy,
        "COPY --from=build --chown=a:b --chmod=u+x --link --parents=true --exclude=*.o --exclude=t a b /c/",
    )
    assert (copy.from_, copy.chown, copy.chmod) == ("build", "a:b", "u+x")
    assert (copy.link, copy.parents, copy.exclude) == (True, True, ("*.o", "t"))
    assert (copy.sources, copy.destination) == (("a", "b"), "/c/")


def test_add_has_all_its_flags() -> None:
    add = one(Add, "ADD --keep-git-dir --checksum=sha256:0 --unpack=false --chown=1 --link=false a b")
    assert (add.keep_git_dir, add.checksum, add.unpack, add.chown, add.link) == (
        True,
        "sha256:0",
        False,
        "1",
        False,
    )
    assert one(Add, "ADD a b").unpack is None


def test_paths_with_blanks_are_written_as_json() -> None:
    copy = one(Copy, 'COPY --chown=1 ["a b", "c", "d e/"]')
    assert (copy.sources, copy.destination, copy.chown) == (("a b", "c"), "d e/", "1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("COPY a", "2:6: COPY needs a source and a destination (COPY SOURCE ... DESTINATION)"),
        ("ADD", "2:1: ADD needs a source and a destination (ADD SOURCE ... DESTINATION)"),
        (
            "COPY --from=$x a b",
            "2:6: no variable can be in --from (name a stage with FROM ... AS and use the name)",
        ),
        ("COPY --checksum=x a b", "2:6: unknown flag --checksum for COPY"),
        ("ADD --from=x a b", "2:5: unknown flag --from for ADD"),
        ("COPY <<A <<B\na\nA\nb\nB", "2:10: COPY cannot have a heredoc as destination"),
    ],
)
def test_a_wrong_copy_is_refused(text: str, expected: str) -> None:
    assert problem(text).startswith(expected)


# ---------------------------------------------------------------- heredocs


def test_copy_takes_several_heredocs() -> None:
    copy = one(Copy, "COPY <<A x <<-'B' /d/\none $V\nA\n\ttwo $V\n\t\tthree\n\tB\n")
    first, path, second = copy.sources
    assert path == "x"
    assert isinstance(first, Heredoc) and isinstance(second, Heredoc)
    assert (first.name, first.content, first.expand, first.strip_tabs) == ("A", "one $V\n", True, False)
    assert (second.name, second.content, second.expand) == ("B", "two $V\nthree\n", False)
    assert second.written == "\ttwo $V\n\t\tthree\n"


def test_run_takes_heredocs_that_have_comments_and_continuations_in_them() -> None:
    run = one(Run, "RUN <<EOF\n# not a comment\na \\\n\nb\nEOF\n")
    assert run.command.heredocs[0].content == "# not a comment\na \\\n\nb\n"
    run = one(Run, 'RUN cat <<"A B" 3<<C >/x\n1\nA B\n2\nC\n')
    assert [(h.name, h.content, h.descriptor) for h in run.command.heredocs] == [
        ("A B", "1\n", ""),
        ("C", "2\n", "3"),
    ]


@pytest.mark.parametrize("text", ["cat <<< a", "echo $((1<<3))", "echo '<<EOF'", "a << b", "echo a<<EOF"])
def test_what_only_looks_like_a_heredoc_is_none(text: str) -> None:
    assert one(Run, "RUN " + text).command.heredocs == ()


def test_other_instructions_have_no_heredocs() -> None:
    assert one(Label, "LABEL a=<<EOF").pairs[0].value == "<<EOF"


def test_a_heredoc_without_an_end_is_named() -> None:
    assert problem("RUN <<EOF\na\nEOF2\n") == "2:1: heredoc 'EOF' has no end (a line EOF alone ends it)"


def test_places_after_a_heredoc_are_right() -> None:
    assert problem("RUN <<EOF\na\nEOF\nCOYP a b").startswith("5:1: unknown instruction 'COYP'")


# ---------------------------------------------------------------- the config


def test_env_and_label_have_two_forms() -> None:
    env = one(Env, "ENV A=1 B='x y' C=a\\ b D=\"$E\"")
    assert [(p.key, p.value, p.legacy) for p in env.pairs] == [
        ("A", "1", False),
        ("B", "'x y'", False),
        ("C", "a\\ b", False),
        ("D", '"$E"', False),
    ]
    label = one(Label, "LABEL a  b = c ")
    assert [(p.key, p.value, p.legacy) for p in label.pairs] == [("a", "b = c", True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ENV", "2:1: ENV needs a name and a value (ENV NAME=VALUE)"),
        ("ENV A=1 B", "2:9: no '=' in 'B' (ENV NAME=VALUE ..., blanks in quotes)"),
        ("LABEL =x", "2:7: LABEL needs a name before '='"),
        ("ARG", "2:1: ARG needs a name (ARG NAME or ARG NAME=DEFAULT)"),
        ("ARG =x", "2:5: ARG needs a name before '='"),
        ("VOLUME", "2:1: VOLUME needs a path"),
        ('VOLUME ["a", " "]', "2:8: a path of VOLUME is empty"),
        ("EXPOSE", "2:1: EXPOSE needs a port"),
        ("WORKDIR", "2:1: WORKDIR needs an argument"),
        ("USER", "2:1: USER needs an argument"),
        ("STOPSIGNAL", "2:1: STOPSIGNAL needs an argument"),
        ("MAINTAINER", "2:1: MAINTAINER needs an argument"),
        ("USER --x root", "2:6: unknown flag --x for USER (USER takes no flags)"),
        ("SHELL /bin/sh -c", '2:7: SHELL takes a JSON array (SHELL ["/bin/sh", "-c"])'),
        ("SHELL []", "2:7: SHELL needs at least one argument"),
        ("ONBUILD", "2:1: ONBUILD needs an instruction"),
        ("ONBUILD ONBUILD RUN a", "2:9: ONBUILD cannot stand in ONBUILD"),
        ("ONBUILD from a", "2:9: FROM cannot stand in ONBUILD"),
        ("ONBUILD MAINTAINER a", "2:9: MAINTAINER cannot stand in ONBUILD"),
        ("ONBUILD RNU a", "2:9: unknown instruction 'RNU' (did you mean 'RUN'?)"),
        ("ONBUILD COPY a", "2:14: COPY needs a source and a destination (COPY SOURCE ... DESTINATION)"),
    ],
)
def test_a_wrong_instruction_is_refused(text: str, expected: str) -> None:
    assert problem(text) == expected


def test_the_other_instructions_are_read() -> None:
    assert one(Volume, 'VOLUME ["/a b", "/c"]').paths == ("/a b", "/c")
    assert one(Volume, "VOLUME /a /b").paths == ("/a", "/b")
    assert one(Expose, "EXPOSE 80 53/udp  $P").ports == ("80", "53/udp", "$P")
    assert one(Workdir, "WORKDIR /a b").path == "/a b"
    assert one(User, "USER a:b").user == "a:b"
    assert one(Shell, 'SHELL ["/bin/bash", "-c"]').words == ("/bin/bash", "-c")
    assert one(Stopsignal, "STOPSIGNAL SIGQUIT").signal == "SIGQUIT"
    assert one(Maintainer, "MAINTAINER A B <c@d>").name == "A B <c@d>"


def test_a_trigger_is_kept_as_text_with_its_heredoc() -> None:
    assert one(Onbuild, "ONBUILD  run   a \\\n  b").trigger == "run   a   b"
    onbuild = one(Onbuild, "ONBUILD COPY <<-A /x\n\tone\n\tA\n")
    assert onbuild.trigger == "COPY <<-A /x\n\tone\nA"
    copy = parse_trigger(onbuild.trigger, Place("Dockerfile", 7, 1))
    assert isinstance(copy, Copy) and isinstance(heredoc := copy.sources[0], Heredoc)
    assert (heredoc.content, copy.place.line) == ("one\n", 7)


@pytest.mark.parametrize("text", ["FROM a", "RUN a\nRUN b", "", "# x", "NO", "COPY a", "RUN <<EOF\nx"])
def test_a_trigger_of_a_base_that_is_no_instruction_is_refused_at_the_from(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_trigger(text, Place("Dockerfile", 3, 1))
    assert str(caught.value).startswith("Dockerfile:3:1: ONBUILD ")


# ---------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a AS Bb", "1:1: StageNameCasing: the stage name 'Bb' should be lower case"),
        ("FROM a as b", "1:1: FromAsCasing: 'as' is not in the case of 'FROM'"),
        ("FROM a AS scratch", "1:1: ReservedStageName: 'scratch' is reserved and should not name a stage"),
        ("FROM a AS b\nFROM a AS b", "2:1: DuplicateStageName: a stage above is called 'b' already"),
        ("FROM a\nRUN x\nrun x", "3:1: ConsistentInstructionCasing: 'run' should be in upper case"),
        ("from a\nrun x\nRun x", "3:1: ConsistentInstructionCasing: 'Run' should be in lower case"),
        ("FROM a\nRUN x \\\n\n y", "3:1: NoEmptyContinuation: an empty line continues an instruction"),
        ("FROM a\nMAINTAINER x", "2:1: MaintainerDeprecated: write LABEL org.opencontainers.image.authors="),
        ("FROM a\nENV A b", "2:1: LegacyKeyValueFormat: write ENV NAME=VALUE instead of ENV NAME VALUE"),
        ("FROM a\nARG DB_PASSWORD", "2:1: SecretsUsedInArgOrEnv: ARG 'DB_PASSWORD' stays in the image"),
        ("FROM a\nENV api_key=x", "2:1: SecretsUsedInArgOrEnv: ENV 'api_key' stays in the image"),
    ],
)
def test_what_is_odd_is_a_warning(text: str, expected: str) -> None:
    found = warnings(text)
    assert len(found) == 1 and found[0].startswith(expected), found


@pytest.mark.parametrize(
    "text",
    [
        "FROM a AS b\nRUN x",
        "from a as b\nrun x",
        "FROM a\nARG KEY_FILE PUBLIC_KEY MONKEY TOKEN_VERSION",
        "FROM a\nENV A=b\nLABEL a=b",
    ],
)
def test_what_is_usual_is_no_warning(text: str) -> None:
    assert warnings(text) == []


# ---------------------------------------------------------------- limits and bytes


def test_a_file_has_limits() -> None:
    big = b"FROM scratch\n#" + b"x" * lines.MAX_BYTES
    with pytest.raises(DockerfileError, match=f"at most {lines.MAX_BYTES} bytes"):
        parse(big)
    with pytest.raises(DockerfileError, match=f"at most {lines.MAX_LINES} lines"):
        parse(b"\n" * lines.MAX_LINES)
    with pytest.raises(DockerfileError, match=f"at most {lines.MAX_INSTRUCTIONS} instructions"):
        parse(b"FROM scratch\n" * (lines.MAX_INSTRUCTIONS + 1))
    with pytest.raises(DockerfileError, match=f"at most {lines.MAX_HEREDOCS} heredocs"):
        parse(b"FROM scratch\nRUN a" + b" <<A" * (lines.MAX_HEREDOCS + 1))


def test_bytes_that_are_no_text_are_fine_in_comments_only() -> None:
    parse(b"# caf\xe9\nFROM scratch\n")
    with pytest.raises(
        DockerfileError, match="Dockerfile:2:7: a byte that is not UTF-8 is in an instruction"
    ):
        parse(b"FROM scratch\nRUN ab\xe9\n")
    with pytest.raises(DockerfileError, match="2:1: a NUL character is in an instruction"):
        parse(b"FROM scratch\nRUN <<A\n\0\nA\n")


def test_problems_are_one_line_each_whatever_is_in_the_file() -> None:
    text = str(DockerfileError.__str__(_caught(b"FROM scratch\n\x1b[31mX\x07 a\nRUN --a\x7fb c\n")))
    assert [line.isprintable() for line in text.splitlines()] == [True, True]


def _caught(data: bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(data)
    return caught.value
