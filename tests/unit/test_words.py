"""Variables, quotes and escapes in a Dockerfile's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.build import words

CASES = Path(__file__).parents[2] / "../shared/data/buildkit/frontend/dockerfile/shell"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="BuildKit's cases are not in ../shared/data")

VALUES = {
    "V": "value",
    "EMPTY": "",
    "PATH": "/usr/local/bin/python",
    "REPEATED": "foobarbaz",
    "TWO": "a  b",
    "FILE": "archive.tar.gz",
    "STAR": "a*b*c",
}


def expand(text: str, escape: str = "\\") -> str:
    return words.expand(text, VALUES.get, escape)


@needs_cases
def test_words_are_expanded_as_buildkit_expands_them() -> None:
    values = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}
    tried = 0
    for line in (CASES / "envVarTest").read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        system, text, expected = (part.strip() for part in line.split("|"))
        if system == "W":
            continue
        try:
            found = words.expand(text, values.get)
        except words.ExpansionError:
            found = "error"
        assert found == expected, text
        tried += 1
    assert tried > 150


@needs_cases
def test_words_are_split_as_buildkit_splits_them() -> None:
    values: dict[str, str] = {}
    tried = 0
    for line in (CASES / "wordsTest").read_text().splitlines():
        if line.startswith("ENV "):
            name, _, value = line[4:].partition("=")
            values[name] = value
        elif line and not line.startswith("#"):
            text, _, expected = line.partition("|")
            try:
                found = list(words.examine(text.strip(), values.get).words)
            except words.ExpansionError:
                found = ["error"]
            assert found == expected.lstrip().split(","), text
            tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$V", "value"),
        ("${V}s", "values"),
        ("$Vs", ""),
        ("$NONE", ""),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE-d}", "d"),
        ("${V:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NONE+x}", ""),
        ("${V:?must}", "value"),
        ("${EMPTY?must}", ""),
        ("${NONE:-${EMPTY:-$V}}", "value"),
        ("${NONE:-'$V'}", "$V"),
        ('${NONE:-"a b"}', "a b"),
        ("${REPEATED#f*b}", "arbaz"),
        ("${REPEATED##f*b}", "az"),
        ("${REPEATED%b*}", "foobar"),
        ("${REPEATED%%b*}", "foo"),
        ("${REPEATED/ba/fo}", "fooforbaz"),
        ("${REPEATED//ba/fo}", "fooforfoz"),
        ("${REPEATED//ba?/}", "foo"),
        ("${REPEATED/o*a/-}", "f-z"),
        ("${FILE%.*}", "archive.tar"),
        ("${FILE%%.*}", "archive"),
        ("${FILE#*.}", "tar.gz"),
        ("${FILE##*.}", "gz"),
        ("${PATH##*/}", "python"),
        ("${PATH%/*}", "/usr/local/bin"),
        ("${PATH//\\//:}", ":usr:local:bin:python"),
        ("${STAR#a\\*}", "b*c"),
        ("${STAR//\\*/-}", "a-b-c"),
        ("${V#nothing}", "value"),
        ("${NONE#x}", ""),
        ("${V/x/$V}", "value"),
        ("${V/a/$V}", "vvaluelue"),
        ("${V//}", "error"),
        ("\\$V", "$V"),
        ("'$V'", "$V"),
        ('"$V"', "value"),
        ('"\\$V"', "$V"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("$.", "$."),
        ("100%", "100%"),
    ],
)
def test_a_word_is_expanded(text: str, expected: str) -> None:
    if expected == "error":
        with pytest.raises(words.ExpansionError):
            expand(text)
    else:
        assert expand(text) == expected


@pytest.mark.parametrize(
    ("text", "problem", "offset"),
    [
        ("a'b", "a single quote is not closed", 1),
        ('ab"c', "a double quote is not closed", 2),
        ("x${V", "missing '}'", 1),
        ("x${V:-a", "missing '}'", 1),
        ("x${V/a", "missing '/'", 1),
        ("${}", "bad substitution", 2),
        ("${V:=x}", "modifier ':=' is not supported", 4),
        ("${V^}", "modifier '^' is not supported", 3),
        ("${NONE:?set it}", "NONE: set it", 15),
        ("${NONE?}", "NONE: is not allowed to be unset", 8),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty", 10),
        ("${V#\\a}", "invalid escape", 7),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(text: str, problem: str, offset: int) -> None:
    with pytest.raises(words.ExpansionError, match=problem.replace("^", r"\^")) as caught:
        expand(text)
    assert caught.value.offset == offset


def test_another_escape_character_leaves_backslashes_alone() -> None:
    assert expand("c:\\$V", "`") == "c:\\value"
    assert expand("`$V", "`") == "$V"
    assert expand('"`"x`""', "`") == '"x"'


def test_a_value_with_blanks_is_one_word_only_in_quotes() -> None:
    assert words.examine("$TWO", VALUES.get).words == ("a", "b")
    assert words.examine('"$TWO" c', VALUES.get).words == ("a  b", "c")


def test_quotes_are_characters_where_there_are_none() -> None:
    found = words.examine('it\'s "$V" \\$V', VALUES.get, quotes=False)
    assert found.text == 'it\'s "value" $V'


def test_variables_without_a_value_may_stay() -> None:
    text = '$NONE ${NONE} ${NONE:-d} "$V"'
    found = words.examine(text, VALUES.get, raw_quotes=True, keep_unset=True)
    assert found.text == '$NONE ${NONE} ${NONE:-d} "value"'
    assert found.unset == {"NONE"}


def test_values_that_double_each_other_end_at_a_limit() -> None:
    big = {"A": "x" * 100_000}
    with pytest.raises(words.ExpansionError, match=f"longer than {words.MAX_EXPANDED} characters"):
        words.expand("$A" * 11, big.get)


def test_braces_inside_each_other_end_at_a_limit() -> None:
    with pytest.raises(words.ExpansionError, match="inside each other"):
        expand("${A:-" * 10_000 + "x" + "}" * 10_000)


def test_a_pattern_with_many_stars_is_done_at_once() -> None:
    value = {"A": "a" * 20_000}
    assert words.expand("${A%" + "*a" * 500 + "b}", value.get) == value["A"]
    assert words.expand("${A//" + "a*" * 500 + "b/x}", value.get) == value["A"]
