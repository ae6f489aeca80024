"""Variables in values as Compose has them, and files of variables."""

from __future__ import annotations

import pytest

from specs.interpolate import InterpolationError, flatten_node, interpolate, parse_env
from tests.spec_text import container, problems, read

VARIABLES = {"A": "1", "EMPTY": "", "LONG_name2": "x", "node.name": "n1", "node.labels.a-b/c": "y", "$": "no"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$A", "1"),
        ("${A}", "1"),
        ("$A$A-$LONG_name2.", "11-x."),
        ("$A.b", "1.b"),
        ("${node.name}", "n1"),
        ("${node.labels.a-b/c}", "y"),
        ("$$A", "$A"),
        ("$$$A", "$1"),
        ("$$${A}$$", "$1$"),
        ("${A:-d}", "1"),
        ("${NO:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NO-d}", "d"),
        ("${NO:-}", ""),
        ("${NO:-a b:c}", "a b:c"),
        ("${NO:-$A}", "1"),
        ("${NO:-${NO:-${A}}}x", "1x"),
        ("${A:-$NO}", "1"),
        ("${A:-${NO:?never said}}", "1"),
        ("${A:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NO+x}", ""),
        ("${NO:+$NO}", ""),
        ("${A:?}", "1"),
        ("${EMPTY?}", ""),
        ("${NO:-$$}", "$"),
    ],
)
def test_a_form_becomes(text: str, value: str) -> None:
    assert interpolate(text, VARIABLES) == value


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("$NO", "variable 'NO' is not set", "write ${NO:-} for an empty default, $$NO for a dollar"),
        ("${NO}", "variable 'NO' is not set", "write ${NO:-} for an empty default, $${NO} for a dollar"),
        ("${NO?}", "variable 'NO' is not set", ""),
        ("${EMPTY:?give it}", "variable 'EMPTY' is not set: give it", ""),
        ("${NO:?say $A}", "variable 'NO' is not set: say 1", ""),
        ("5$", "cannot replace variable in '5$'", "write $$ for a dollar"),
        ("$1", "cannot replace variable in '$1'", "write $$ for a dollar"),
        ("${}", "cannot replace variable in '${}': no name", "write $$ for a dollar"),
        ("${A", "cannot replace variable in '${A': after 'A' comes } or one of :- - :? ? :+ +", ""),
        ("${A!x}", "cannot replace variable in '${A!x}': after 'A' comes } or one of :- - :? ? :+ +", ""),
        ("${A:-x", "cannot replace variable in '${A:-x': the closing brace is missing", ""),
        ("${A:-" * 20 + "}" * 20, "cannot replace variables: defaults nested too deeply", ""),
    ],
)
def test_what_cannot_be_replaced_is_said(text: str, error: str, hint: str) -> None:
    with pytest.raises(InterpolationError) as raised:
        interpolate(text, VARIABLES)
    assert (str(raised.value), raised.value.hint) == (error, hint)


def test_variables_that_multiply_are_refused() -> None:
    with pytest.raises(InterpolationError, match="larger than 1 MiB"):
        interpolate("$X" * 200, {"X": "x" * 10_000})


def test_a_value_is_not_replaced_again() -> None:
    assert interpolate("$X", {"X": "$A ${B}"}) == "$A ${B}"


def test_labels_of_the_node_are_variables() -> None:
    assert flatten_node({"name": "a", "labels": {"role": "db"}}) == {
        "node.name": "a",
        "node.labels.role": "db",
    }
    assert container('user = "${node.name}-${node.labels.role}-${node.labels.zone.a}"').user == "n1-db-1"


def test_values_are_replaced_and_keys_are_not() -> None:
    found = container('labels = { "$A" = "$A" }\ncommand = ["$$A", "$A"]', A="1")
    assert found.labels == {"$A": "1"}
    assert found.command == ("$A", "1")


def test_a_variable_may_stand_where_a_number_or_a_flag_belongs() -> None:
    found = container('read_only = "$YES"\ncpu_weight = "$N"\nports = ["$N:80"]', YES="true", N="99")
    assert (found.read_only, found.limits.cpu_weight, found.ports[0].host_port) == (True, 99, 99)
    assert "container.c.cpu_weight: write a whole number, not 'x'" in problems('cpu_weight = "$N"', N="x")[0]


def test_every_variable_that_is_missing_is_its_own_problem() -> None:
    found = problems('labels = ["a=$A", "b=${B:?give b}"]\nuser = "$C"')
    assert [line.split(": ", 2)[2] for line in found] == [
        "variable 'A' is not set (write ${A:-} for an empty default, $$A for a dollar)",
        "variable 'B' is not set: give b",
        "variable 'C' is not set (write ${C:-} for an empty default, $$C for a dollar)",
    ]


def test_settings_win_over_the_dotenv_beside_the_file() -> None:
    spec = '[container.c]\nimage = "a"\nlabels = { a = "$A", b = "$B" }\n'
    files = {"app/c.toml": spec, "app/.env": "A=dotenv\nB=dotenv\n", ".env": "B=elsewhere\n"}
    desired, _ = read(files, A="settings")
    assert desired is not None
    assert desired.containers["app/c"].labels == {"a": "settings", "b": "dotenv"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1\nB = 2 \nexport C=3\n", {"A": "1", "B": "2", "C": "3"}),
        ("# no\n\n  # no\nA=1 # no\nB=1#yes\n", {"A": "1", "B": "1#yes"}),
        ("A=\nB=''\nC=\"\"\n", {"A": "", "B": "", "C": ""}),
        ("A='$G # x'\n", {"A": "$G # x"}),
        ('A="$G # \\" \\n \\$G"\n', {"A": 'given # " \n $G'}),
        ("A='two\nlines'\nB=1\n", {"A": "two\nlines", "B": "1"}),
        ('A="two\nlines"\n', {"A": "two\nlines"}),
        ("A=1\nB=$A$G\n", {"A": "1", "B": "1given"}),
        ("G\nNOT_SET\n", {"G": "given"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("a.b-c=1\n", {"a.b-c": "1"}),
        ("A==x=\n", {"A": "=x="}),
        ("A=1", {"A": "1"}),
        ("", {}),
    ],
)
def test_a_file_of_variables_has(text: str, values: dict[str, str]) -> None:
    assert parse_env(text.encode(), {"G": "given"}) == (values, [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"A=1\n=2\n", (2, 1, "cannot read line: write KEY=value")),
        (b"A=1\nwhat is this\n", (2, 1, "cannot read line: write KEY=value")),
        (b"A='x\n", (1, 3, "cannot read value: the closing quote is missing")),
        (b'A=1\nB="x\n', (2, 3, "cannot read value '\"x\\n': the closing quote is missing")),
        (b"A=1\nB=$NO\n", (2, 3, "variable 'NO' is not set")),
        (b"A=\xff\n", (1, 1, "cannot read text: not UTF-8")),
    ],
)
def test_a_wrong_line_of_a_file_of_variables_has_its_place(
    content: bytes, problem: tuple[int, int, str]
) -> None:
    assert parse_env(content, {})[1] == [problem]


def test_a_wrong_dotenv_is_a_problem_in_that_file() -> None:
    files = {"c.toml": '[container.c]\nimage = "a"\n', ".env": "A=1\n???\n"}
    assert read(files)[1] == [".env:2:1: cannot read line: write KEY=value"]
