"""No bytes make the reading of a Dockerfile fail in a way of its own, and none take long."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.build import stage, words
from runtime.build.config import ImageConfig, read_config, write_config
from runtime.build.dockerfile import DockerfileError, parse
from runtime.build.graph import StageBase, plan
from runtime.build.stage import StageState

KEYWORDS = """
FROM RUN COPY ADD CMD ENTRYPOINT ENV LABEL ARG VOLUME EXPOSE WORKDIR USER HEALTHCHECK ONBUILD SHELL
STOPSIGNAL MAINTAINER run NONE AS scratch
""".split()
WORDS = """
a b $A ${A:-b} ${A##*} ${A/b/c} ${ ' " \\ ` # <<EOF <<-"E" ["a"] ["a", [ ] = A=1 --from=a --chown=1 -- / /x .
* 80 --mount=type=cache,target=/x --mount= 9-8 1-9/udp SIGTERM --interval=1s é \u2028 \0 \x1b
""".split(" ")
ENDS = ["\n", "\n\n", "\r\n", "\\\n", "\t", "\n#", "\nEOF\n", "\nE\n", "# escape=`\n", "# check=error=true\n"]
PIECES = st.sampled_from(KEYWORDS) | st.sampled_from(WORDS) | st.sampled_from(ENDS)
TEXTS = st.lists(PIECES, max_size=40).map(" ".join) | st.lists(PIECES, max_size=40).map("".join)


def built(data: bytes) -> None:
    """Read it and go through all its stages, as a build would."""
    try:
        graph = plan(parse(data), build_platform="linux/amd64", args={"A": "x y"})
        states: dict[int, StageState] = {}
        for planned in graph.stages:
            if isinstance(planned.base, StageBase):
                state = stage.continue_from(states[planned.base.index])
            else:
                state = stage.begin(ImageConfig(architecture="amd64"))
            for instruction in planned.instructions:
                state = stage.step(state, instruction, graph.scope).state
            states[planned.index] = state
            text = write_config(state.config, [], "t")
            assert write_config(read_config(text), [], "t") == text
        for warning in graph.warnings:
            assert str(warning).isprintable()
    except DockerfileError as error:
        for problem in error.problems:
            assert str(problem).isprintable()
            assert problem.place.file == "Dockerfile"
            assert 0 <= problem.place.line <= data.count(b"\n") + 1


@given(TEXTS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_is_more_than_wrong(text: str) -> None:
    built(b"FROM base AS a\n" + text.encode())
    built(text.encode())


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_are_more_than_wrong(data: bytes) -> None:
    built(data)


@given(st.text(max_size=60), st.sampled_from("\\`"))
def test_no_word_is_more_than_wrong(text: str, escape: str) -> None:
    try:
        words.examine(text, {"A": "b c"}.get, escape)
    except words.ExpansionError as error:
        assert 0 <= error.offset <= len(text)


@given(st.text("abc /.:=", max_size=30))
def test_a_word_without_anything_special_is_itself(text: str) -> None:
    found = words.examine(text, {}.get)
    assert found.text == text and found.words == tuple(text.split())


def test_reading_takes_time_as_the_file_grows_and_no_more() -> None:
    """Ten times the file is far from a hundred times the time, for each way to make it hard."""
    hard = {
        "instructions": lambda n: "FROM a\n" + "ENV A=1 B=2\n" * n,
        "one line": lambda n: "FROM a\nRUN " + "a b " * n,
        "continuations": lambda n: "FROM a\nRUN a" + " \\\n b" * n,
        "comments": lambda n: "FROM a\nRUN a \\\n" + "# x\n" * n + "b",
        "blanks": lambda n: "FROM a\nRUN a \\\n" + "   \n" * n + "b",
        "quotes": lambda n: "FROM a\nENV A=" + "'a'\"b\"" * n,
        "flags": lambda n: "FROM a\nCOPY " + "--exclude=a " * n + "a b",
        "sources": lambda n: "FROM a\nCOPY " + "a " * n + "b",
        "heredocs": lambda n: "FROM a\nRUN <<A\n" + "x\n" * n + "A\n",
        "open heredocs": lambda n: "FROM a\n" + "RUN x <<A\nA\n" * n,
        "json": lambda n: "FROM a\nCMD [" + '"a",' * n + '"b"]',
        "brackets": lambda n: "FROM a\nCMD " + "[" * n,
        "stages": lambda n: "".join(f"FROM a AS s{i}\n" for i in range(min(n, 900))),
        "backslashes": lambda n: "FROM a\nRUN " + "\\" * n + "x\nENV A=" + "\\" * n,
        "spaces": lambda n: "FROM a\nRUN a" + " " * n + "\\ b",
    }
    for name, text in hard.items():
        small, large = (_seconds(text(count).encode()) for count in (900, 9000))
        assert large < 30 * small + 0.3, (name, small, large)


def _seconds(data: bytes) -> float:
    before = time.process_time()
    built(data)
    return time.process_time() - before
