"""Which stages a build needs, what they begin from, and the arguments that FROM sees."""

from __future__ import annotations

import pytest

from runtime.build import lint
from runtime.build.dockerfile import DockerfileError, parse
from runtime.build.graph import ContextBase, Graph, ImageBase, ScratchBase, StageBase, plan


def graph(text: str, **options: object) -> Graph:
    return plan(parse(text.encode()), build_platform="linux/amd64", **options)  # type: ignore[arg-type]


def problems(text: str, **options: object) -> list[str]:
    with pytest.raises(DockerfileError) as caught:
        graph(text, **options)
    return [str(problem).removeprefix("Dockerfile:").lstrip() for problem in caught.value.problems]


def warnings(text: str, **options: object) -> list[str]:
    return [str(warning).removeprefix("Dockerfile:").lstrip() for warning in graph(text, **options).warnings]


def needed(text: str, **options: object) -> list[int]:
    return [stage.index for stage in graph(text, **options).needed]


# ---------------------------------------------------------------- stages


def test_only_what_the_target_needs_is_built() -> None:
    assert needed("FROM one AS a\nFROM two AS b\nFROM scratch\nCOPY --from=a x y") == [0, 2]
    assert needed("FROM one AS a\nFROM two AS b\nFROM scratch\nCOPY --from=a x y", target="B") == [1]
    assert needed("FROM a\nFROM b\nFROM c\nCOPY --from=1 x y\nCOPY --from=0 x y") == [0, 1, 2]
    assert needed("FROM a AS x\nFROM x AS y\nFROM y") == [0, 1, 2]
    assert needed("FROM a AS x\nFROM b\nRUN --mount=from=x,target=/x y") == [0, 1]


def test_a_target_is_a_name_or_a_number() -> None:
    text = "FROM one AS a\nFROM two AS b\nFROM three"
    assert [graph(text, target=t).target.index for t in ("", "A", "b", "0", "2")] == [2, 0, 1, 0, 2]
    assert problems(text, target="bb") == ["no stage is called 'bb' (did you mean 'b'?)"]
    assert problems(text, target="3") == ["no stage is called '3' (it has a, b)"]
    assert problems("FROM a", target="x") == ["no stage is called 'x' (no stage has a name)"]


def test_a_stage_begins_from_a_stage_above_an_image_or_nothing() -> None:
    stages = graph("FROM alpine AS alpine\nFROM alpine AS second\nFROM scratch\nFROM SECOND").stages
    assert [stage.base for stage in stages] == [
        ImageBase("alpine"),
        StageBase(0),
        ScratchBase(),
        StageBase(1),
    ]


def test_a_stage_below_is_no_base_so_its_name_is_an_image() -> None:
    assert graph("FROM later\nFROM x AS later").stages[0].base == ImageBase("later")


def test_of_two_stages_with_one_name_the_nearer_is_meant() -> None:
    stages = graph("FROM one AS a\nFROM two AS a\nFROM a\nFROM x AS a\n").stages
    assert stages[2].base == StageBase(1)


def test_sources_are_stages_by_name_or_number_and_images() -> None:
    text = "FROM one AS a\nFROM two\nFROM x\nCOPY --from=a . .\nCOPY --from=1 . .\nCOPY --from=nginx:1 . ."
    stage = graph(text).stages[2]
    assert stage.sources == {"a": StageBase(0), "1": StageBase(1), "nginx:1": ImageBase("nginx:1")}
    assert stage.needs == {0, 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "FROM a AS x\nCOPY --from=y . .\nFROM b AS y",
            "2:1: a stage cannot copy from a stage below ('y') (only stages above can be used)",
        ),
        (
            "FROM a AS x\nCOPY --from=X . .",
            "2:1: a stage cannot copy from itself ('X') (only stages above can be used)",
        ),
        ("FROM a\nCOPY --from=0 . .", "2:1: no stage above has the number 0 (there is none)"),
        ("FROM a\nFROM b\nCOPY --from=1 . .", "3:1: no stage above has the number 1 (there is 0 to 0)"),
        (
            "FROM a AS x\nRUN --mount=target=/y,from=x y",
            "2:5: a stage cannot copy from itself ('x') (only stages above can be used)",
        ),
        ("FROM a\nRUN --mount=target=/y,from=7 y", "2:5: no stage above has the number 7 (there is none)"),
    ],
)
def test_stages_look_back_only(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_problems_of_all_stages_are_named_at_once() -> None:
    assert len(problems("FROM $a\nCOPY --from=5 . .\nFROM b\nCOPY --from=6 . .")) == 3


@pytest.mark.parametrize(
    "name",
    [
        "alpine",
        "a.b_c__d--e/f:T1.x",
        "localhost/a",
        "localhost:5000/a/b:1",
        "host:1/a",
        "registry.example/A:1".lower(),
        "[::1]:5000/a",
        "UPPER/a",  # upper case makes it a host
        "a@sha256:" + "0" * 64,
        "a:1@sha256:" + "0" * 64,
    ],
)
def test_an_image_is_named_as_docker_names_it(name: str) -> None:
    assert graph(f"FROM {name}").stages[0].base == ImageBase(name)
    assert graph(f"FROM a\nCOPY --from={name} x y").stages[0].sources == {name: ImageBase(name)}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Alpine", "lower case only"),
        ("a/B", "lower case only"),
        ("a:", "NAME, NAME:TAG or HOST/NAME:TAG"),
        ("a::b", "NAME, NAME:TAG or HOST/NAME:TAG"),
        ("a@sha256:0", "NAME, NAME:TAG or HOST/NAME:TAG"),
        ("https://a/b", "NAME, NAME:TAG or HOST/NAME:TAG"),
        ("-a", "NAME, NAME:TAG or HOST/NAME:TAG"),
        ("a//b", "NAME, NAME:TAG or HOST/NAME:TAG"),
    ],
)
def test_what_is_no_image_is_refused_at_its_place(name: str, hint: str) -> None:
    assert problems(f"FROM a\nFROM {name}") == [f"2:1: {name!r} is no image and no stage above ({hint})"]
    assert problems(f"FROM a\nCOPY --from={name} x y")[0].startswith(f"2:1: {name!r} is no image")


def test_an_image_that_a_variable_without_a_value_spoils_says_so() -> None:
    assert problems("ARG VERSION=1\nFROM a:$VERSOIN") == [
        "2:1: 'a:' is no image and no stage above (VERSOIN has no value: did you mean 'VERSION'?)"
    ]


def test_named_contexts_win_over_stages_and_images() -> None:
    text = (
        "FROM alpine:latest\nFROM one AS src\nCOPY a b\nFROM src\nCOPY --from=docker.io/library/nginx a b\n"
    )
    text += "FROM scratch"
    stages = graph(text, contexts=["alpine", "src", "nginx", "scratch"]).stages
    assert stages[0].base == ContextBase("alpine:latest")
    assert (stages[1].base, stages[1].instructions) == (ContextBase("src"), ())
    assert stages[2].base == ContextBase("src")
    assert stages[3].base == ScratchBase()  # which nothing takes the place of
    assert stages[2].sources == {"docker.io/library/nginx": ContextBase("docker.io/library/nginx")}


# ---------------------------------------------------------------- triggers


def test_triggers_of_a_stage_come_first_in_the_stage_that_begins_from_it() -> None:
    base = "FROM x AS t\nFROM a AS base\nONBUILD COPY --from=t y z\nONBUILD RUN one\n"
    text = base + "FROM base AS mid\nRUN two\nFROM mid"
    stages = graph(text).stages
    assert [one.text for one in stages[2].instructions] == ["COPY --from=t y z", "RUN one", "RUN two"]
    assert (stages[2].needs, stages[2].triggers) == ({0, 1}, 2)
    assert {one.place.line for one in stages[2].instructions[:2]} == {5}
    assert stages[3].instructions == ()  # triggers are for the child, not for its children


def test_triggers_of_an_image_may_need_more_stages() -> None:
    before = graph("FROM a AS tools\nFROM b AS app\nRUN own")
    assert [stage.index for stage in before.needed] == [1]
    after = before.with_triggers(1, ["COPY --from=tools x y", "RUN <<A\nb\nA"])
    assert [stage.index for stage in after.needed] == [0, 1]
    assert [one.text for one in after.target.instructions] == ["COPY --from=tools x y", "RUN <<A", "RUN own"]
    assert after.with_triggers(1, ["RUN again"]) == after


def test_triggers_that_mean_nothing_are_refused_at_the_from() -> None:
    with pytest.raises(DockerfileError) as caught:
        graph("FROM a\nFROM b AS app").with_triggers(1, ["RNU x", "COPY --from=1 x y", "COPY"])
    assert [str(problem) for problem in caught.value.problems] == [
        "Dockerfile:2:1: ONBUILD COPY: COPY needs a source and a destination (COPY SOURCE ... DESTINATION)",
        "Dockerfile:2:1: ONBUILD RNU x: unknown instruction 'RNU' (did you mean 'RUN'?)",
        "Dockerfile:2:1: ONBUILD of the base: no stage above has the number 1 (there is 0 to 0)",
    ]


# ---------------------------------------------------------------- arguments and platforms


def test_from_sees_the_arguments_before_the_first_from() -> None:
    text = "ARG V=1\nARG TAG=v${V}\nARG IMAGE=app:$TAG\nFROM $IMAGE\nARG V=9\nFROM ${IMAGE}-x"
    assert [stage.base for stage in graph(text).stages] == [ImageBase("app:v1"), ImageBase("app:v1-x")]
    assert graph(text, args={"V": "2", "TAG": "t"}).stages[0].base == ImageBase("app:t")
    assert graph(text, args={"V": "2"}).stages[0].base == ImageBase("app:v2")


def test_an_argument_may_choose_a_stage() -> None:
    text = "ARG FROM_=dev\nFROM a AS dev\nFROM b AS prod\nFROM $FROM_"
    assert needed(text) == [0, 2]
    assert needed(text, args={"FROM_": "prod"}) == [1, 2]


def test_modifiers_work_in_from() -> None:
    assert graph("ARG T\nFROM a:${T:-latest}").stages[0].base == ImageBase("a:latest")
    assert problems("ARG T\nFROM a:${T:?missing}") == ["2:1: T: missing in 'a:${T:?missing}'"]


def test_platforms_are_there_without_being_declared() -> None:
    text = "FROM --platform=$BUILDPLATFORM a AS x\n"
    text += "FROM --platform=linux/$TARGETARCH b-$TARGETOS-$TARGETVARIANT\n"
    stages = graph(text, target_platform="linux/arm/v7").stages
    assert [stage.platform for stage in stages] == ["linux/amd64", "linux/arm"]
    assert stages[1].base == ImageBase("b-linux-v7", "linux/arm")
    values = graph(text, target_platform="linux/arm/v7", target="x").scope.globals_
    assert (values["BUILDARCH"], values["TARGETPLATFORM"], values["TARGETSTAGE"]) == (
        "amd64",
        "linux/arm/v7",
        "x",
    )


def test_a_stage_has_the_platform_of_the_stage_that_it_begins_from() -> None:
    text = "FROM --platform=$BUILDPLATFORM a AS x\nFROM x"
    assert graph(text, target_platform="linux/arm64").stages[1].platform == "linux/amd64"


def test_an_automatic_argument_can_be_given() -> None:
    assert graph("FROM a:$TARGETARCH", args={"TARGETARCH": "z"}).stages[0].base == ImageBase("a:z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ARG A\nFROM $A",
            "2:1: the image is empty: '$A' has no value"
            " (A has no value: give its ARG before the first FROM a default)",
        ),
        ("FROM ${A", "1:1: missing '}' in '${A'"),
        ("ARG A=${B\nFROM a", "1:5: ARG A: missing '}'"),
        (
            "FROM --platform=$A a",
            "1:1: --platform=$A: '' is no platform (write linux/amd64 or linux/arm/v7)",
        ),
        (
            "FROM --platform=a/b/c/d a",
            "1:1: --platform=a/b/c/d: 'a/b/c/d' is no platform (write linux/amd64 or linux/arm/v7)",
        ),
    ],
)
def test_a_from_that_means_nothing_is_refused(text: str, expected: str) -> None:
    assert problems(text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ARG VERSION=1\nFROM a:1$VERSOIN",
            "2:1: UndefinedArgInFrom: no ARG before the first FROM declares 'VERSOIN'"
            " (did you mean 'VERSION'?)",
        ),
        (
            "ARG T\nFROM a:${T}",
            "2:1: InvalidDefaultArgInFrom: without build arguments 'a:${T}' is 'a:', which is no image",
        ),
        (
            "FROM --platform=linux/arm64 a",
            "1:1: FromPlatformFlagConstDisallowed: FROM --platform should not be the constant 'linux/arm64'",
        ),
        (
            "FROM --platform=$TARGETPLATFORM a",
            "1:1: RedundantTargetPlatform: the target's platform is the default",
        ),
        ("FROM a AS x\nFROM b AS x", "2:1: DuplicateStageName: a stage above is called 'x' already"),
    ],
)
def test_what_is_odd_in_from_is_a_warning(text: str, expected: str) -> None:
    assert expected in warnings(text, args={"T": "1"})


@pytest.mark.parametrize(
    "text",
    [
        "FROM --platform=linux/arm64 a AS build-arm64",
        "ARG T\nFROM a:${T:-1}",
        "ARG R=localhost:5000/a\nFROM ${R}/b:1",
        "FROM --platform=$BUILDPLATFORM a",
    ],
)
def test_what_is_usual_in_from_is_no_warning(text: str) -> None:
    assert warnings(text) == []


def test_a_build_argument_has_no_nul() -> None:
    assert problems("FROM x", args={"A": "\0"}) == ["the build argument 'A' has a NUL in it"]


def test_a_build_argument_that_nothing_declares_is_a_warning() -> None:
    text = "ARG A\nFROM x\nARG B\n"
    given = {"A": "", "B": "", "http_proxy": "", "TARGETARCH": "", "SOURCE_DATE_EPOCH": "1", "BUILDKIT_X": ""}
    assert warnings(text, args=given) == []
    assert warnings("FROM x\nARG VERSION", args={"VERSOIN": "1"}) == [
        "UnusedBuildArg: no ARG takes the build argument 'VERSOIN' (did you mean 'VERSION'?)"
    ]


def test_skipped_checks_are_skipped_here_too_and_errors_raise() -> None:
    text = "FROM --platform=linux/arm64 a"
    assert warnings("# check=skip=FromPlatformFlagConstDisallowed\n" + text) == []
    lint.refuse(graph(text).file, graph(text).warnings)
    strict = graph("# check=error=true\n" + text)
    with pytest.raises(DockerfileError, match="Dockerfile:2:1: FromPlatformFlagConstDisallowed: "):
        lint.refuse(strict.file, strict.warnings)
