"""A pattern with few wildcards and one with many are matched in two ways, which agree."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from runtime.build import matching
from runtime.build.globs import Glob
from runtime.build.ignore import Ignore
from runtime.build.matching import PatternError

PATHS = st.text("ab/.", max_size=12)
PATTERNS = st.lists(
    st.sampled_from(["a", "b", "/", ".", "*", "?", "**", "**/", "[ab]", "[^a]", "\\a", "\\*"]), max_size=8
).map("".join)


@given(PATTERNS, PATHS, st.booleans())
def test_both_ways_to_match_agree(pattern: str, path: str, deep: bool) -> None:
    tokens = matching._joined(matching._tokens(pattern, deep))
    expected = re.fullmatch(matching._expression(tokens), path, re.DOTALL) is not None
    assert matching._simulate(tokens, path) is expected
    assert matching.compiled(pattern, deep=deep).matches(path) is expected


@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_a_pattern_or_is_refused(pattern: str, path: str) -> None:
    for deep in (False, True):
        try:
            matching.compiled(pattern, deep=deep).matches(path)
        except PatternError:
            pass


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)
PATTERNS_OF_LINES = ["a", "a/b", "*", "*/c", "**/b", "a/**", "**b", "**c/a", "c", "b/c/a"]
LINES = st.lists(st.tuples(st.sampled_from(["", "!"]), st.sampled_from(PATTERNS_OF_LINES)), max_size=5)


@given(LINES, st.lists(NAMES, max_size=12))
def test_nothing_that_is_seen_is_below_a_directory_that_is_not_entered(
    lines: list[tuple[str, str]], paths: list[str]
) -> None:
    ignore = Ignore.parse("\n".join("".join(line) for line in lines))
    for path in paths:
        parts = path.split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        if not all(ignore.may_descend(directory) for directory in above):
            assert ignore.excludes(path), (lines, path)


@given(LINES, st.lists(NAMES, max_size=12))
def test_what_is_seen_follows_from_every_rule_and_every_directory_above(
    lines: list[tuple[str, str]], paths: list[str]
) -> None:
    """Against each rule tried on the path and on each directory above it."""
    ignore = Ignore.parse("\n".join("".join(line) for line in lines))
    for path in paths:
        parts = path.split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        expected = False
        for rule in ignore.rules:
            if any(rule.matches(one) for one in above):
                expected = not rule.back_in
        assert ignore.excludes(path) is expected, (lines, path)


SHELL_PATTERNS = st.lists(st.sampled_from(["a", "b", ".", "*", "?", "\\*", "\\?"]), max_size=6).map("".join)


@given(SHELL_PATTERNS, st.text("ab.*?", max_size=10))
def test_prefixes_and_suffixes_go_as_in_a_shell(pattern: str, value: str) -> None:
    """Against every prefix and suffix, tried one by one."""
    expression = re.sub(r"\\(.)|(\*)|(\?)|(.)", _one, pattern)
    ends = [n for n in range(len(value) + 1) if re.fullmatch(expression, value[:n])]
    glob = Glob.parse(pattern)
    assert glob.without_prefix(value, longest=False) == value[min(ends, default=0) :]
    assert glob.without_prefix(value, longest=True) == value[max(ends, default=0) :]
    starts = [n for n in range(len(value) + 1) if re.fullmatch(expression, value[n:])]
    assert glob.without_suffix(value, longest=False) == value[: max(starts, default=len(value))]
    assert glob.without_suffix(value, longest=True) == value[: min(starts, default=len(value))]


@given(SHELL_PATTERNS, st.text("ab.*?", max_size=10))
def test_replacing_takes_the_leftmost_longest_matches(pattern: str, value: str) -> None:
    expression = re.sub(r"\\(.)|(\*)|(\?)|(.)", _one, pattern)
    out, at = "", 0
    while at < len(value):
        ends = [n for n in range(at + 1, len(value) + 1) if re.fullmatch(expression, value[at:n])]
        if ends:
            out, at = out + "<>", max(ends)
        else:
            out, at = out + value[at], at + 1
    assert Glob.parse(pattern).replaced(value, "<>", every=True) == out
    first = Glob.parse(pattern).replaced(value, "<>", every=False)
    assert first.count("<>") == (1 if "<>" in out else 0)


def _one(match: re.Match[str]) -> str:
    escaped, star, _mark, literal = match.groups()
    return re.escape(escaped or literal) if escaped or literal else ".*" if star else "."
