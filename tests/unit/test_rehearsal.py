"""What is wrong in the last step is said before the first one runs."""

from __future__ import annotations

import pytest

from runtime.build.config import ImageConfig
from runtime.build.dockerfile import DockerfileError, parse
from runtime.build.graph import plan
from runtime.build.rehearsal import rehearse


def said(text: str, **bases: ImageConfig) -> list[str]:
    """The warnings; `bases` by the names of images."""
    graph = plan(parse(text.encode()), build_platform="linux/amd64")
    known = {s.index: bases[n] for s in graph.stages if (n := getattr(s.base, "name", "")) in bases}
    return [str(warning).removeprefix("Dockerfile:") for warning in rehearse(graph, known)]


def problems(text: str, **bases: ImageConfig) -> list[str]:
    with pytest.raises(DockerfileError) as caught:
        said(text, **bases)
    return [str(problem).removeprefix("Dockerfile:") for problem in caught.value.problems]


def test_all_problems_of_all_needed_stages_are_said_at_once() -> None:
    text = "FROM scratch AS a\nEXPOSE x\nFROM scratch AS b\nEXPOSE y\nFROM scratch\n"
    found = problems(text + "STOPSIGNAL z\nCOPY --from=a . .\n")
    assert [problem.partition(":")[0] for problem in found] == ["2", "6"]


def test_stages_that_are_not_needed_are_looked_at_when_asked() -> None:
    graph = plan(parse(b"FROM a\nEXPOSE x\nFROM b\n"), build_platform="linux/amd64")
    assert rehearse(graph, {}) == ()
    with pytest.raises(DockerfileError, match="Dockerfile:2:1: EXPOSE"):
        rehearse(graph, {}, every=True)


def test_warnings_of_text_and_values_come_in_order_and_some_are_skipped() -> None:
    text = "FROM scratch AS A\nCMD x\nENV a b\nWORKDIR c\nLABEL d=$e\n"
    rules = [line.split(": ")[1] for line in said(text)]
    assert rules == [
        "StageNameCasing",
        "JSONArgsRecommended",
        "LegacyKeyValueFormat",
        "WorkdirRelativePath",
        "UndefinedVar",
    ]
    assert said("# check=skip=all\n" + text) == []
    assert len(said("# check=skip=UndefinedVar\n" + text)) == 4


def test_warnings_that_are_errors_are_all_said_before_anything_runs() -> None:
    found = problems("# check=error=true\nFROM scratch\nRUN x\nCMD x\nLABEL d=$e\n")
    assert [problem.split(": ")[1] for problem in found] == ["JSONArgsRecommended", "UndefinedVar"]


def test_variables_of_a_base_are_known_when_the_base_is() -> None:
    text = "FROM base AS one\nLABEL a=$GIVEN b=$OTHER\nFROM one\nLABEL c=$GIVEN d=$OTHER\n"
    found = said(text, base=ImageConfig(env={"GIVEN": "1"}))
    assert found == [
        "2:16: UndefinedVar: variable '$OTHER' is not set",
        "4:16: UndefinedVar: variable '$OTHER' is not set",
    ]


def test_of_an_unknown_base_only_what_needs_no_variable_is_said() -> None:
    text = 'FROM base AS one\nLABEL a=$b c="${d:?must}"\nFROM one\nEXPOSE $p\nEXPOSE x\nCMD y\n'
    assert problems(text) == [
        "5:1: EXPOSE: 'x' is not a port or a range of ports (write 80, 53/udp or 8000-8010)"
    ]
    assert [line.split(": ")[1] for line in said(text.replace("EXPOSE x\n", ""))] == ["JSONArgsRecommended"]
