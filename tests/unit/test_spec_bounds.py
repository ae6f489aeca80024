"""What a stranger writes costs no more than it should: every size in a spec has a limit with a message."""

from __future__ import annotations

import pytest

from specs import problems as wording
from specs.interpolate import MAX_TOTAL, parse_env
from specs.parse import MAX_NODES, parse
from specs.problems import Problem, nearest
from specs.resolve import MAX_CONTAINERS
from tests.spec_text import problems, read


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (f"pids = {'9' * 5000}", "cannot read TOML: a number has too many digits"),
        (f'memory = "{"9" * 5000}"', "container.c.memory: cannot read size '999"),
        (f'stop_grace_period = "{"9" * 5000}s"', "container.c.stop_grace_period: cannot read duration '999"),
        (f'cpus = "{"9" * 5000}"', "container.c.cpus: cannot read cpus '999"),
        (f'pids = "{"9" * 5000}"', "container.c.pids: write a whole number, not '999"),
        (f'user = "{"x" * 100_000}"\nhostname = "{"a" * 100_000}"', "container.c.hostname: 'aaa"),
        ('ports = ["1-4096:1-4096", "5000:5000"]', "container.c.ports[1]: more than 4096 published ports"),
        (
            "labels = [" + '"$LONG",' * 100 + "]",
            "container.c.labels[83]: cannot replace variables: the values of",
        ),
    ],
)
def test_a_value_that_is_too_large_is_one_short_problem(lines: str, expected: str) -> None:
    (found,) = problems(lines, LONG="x" * 100_000)
    assert found.split(": ", 1)[1].startswith(expected)
    assert len(found) < 1000


def test_a_source_has_no_more_containers_than_a_machine_could_run() -> None:
    text = "".join(f'[container.c{n:02}]\nimage = "a"\nreplicas = 1000\n' for n in range(11))
    assert read({"a.toml": text})[1] == [
        f"a.toml:31:1: container.c10: more than {MAX_CONTAINERS} containers in this source"
    ]


def test_the_documents_of_one_yaml_file_share_one_limit() -> None:
    one = "---\na: &a [" + ", ".join(["x"] * 200) + "]\nb: [" + ", ".join(["*a"] * 200) + "]\n"
    documents, found = parse("a.yaml", (one * 4).encode())
    text = f"cannot read YAML: more than {MAX_NODES} nodes, aliases included"
    assert len(documents) == 2
    assert {problem.text for problem in found} == {text}


def test_a_file_of_variables_that_multiplies_is_stopped() -> None:
    content = "".join(f"A{n}=$LONG\n" for n in range(1000)).encode()
    values, found = parse_env(content, {"LONG": "x" * 100_000})
    assert sum(map(len, values.values())) <= MAX_TOTAL
    assert len(found) == 1
    assert "become larger than 8 MiB" in found[0][2]


def test_a_long_text_is_cut_in_the_middle() -> None:
    line = str(Problem("f", 1, 1, "begin " + "x" * 10_000 + " end"))
    assert line.startswith("f:1:1: begin xxx") and line.endswith("xxx end")
    assert len(line) < wording.MAX_TEXT


def test_no_nearest_word_is_looked_for_among_very_many() -> None:
    assert nearest("imag", ["image"]) == "did you mean 'image'?"
    assert nearest("imag", ["image", *map(str, range(wording.MAX_WORDS))]) == ""


def test_many_objects_with_problems_are_each_at_their_place() -> None:
    text = "container:\n" + "".join(f"  k{n}: {{image: a, foo: 1}}\n" for n in range(3000))
    found = read({"a.yaml": text})[1]
    assert found[:2] == [
        "a.yaml:1:1: the file: 3000 problems, here are 1000",
        "a.yaml:2:18: container.k0: unknown key 'foo'",
    ]
    assert len(found) == 1001
