"""Patterns of COPY and of .dockerignore, which Go's filepath.Match and moby's patternmatcher define."""

from __future__ import annotations

import pytest

from runtime.build.ignore import MAX_PATTERNS, Ignore, IgnoreError
from runtime.build.matching import PatternError, compiled, has_wildcards, match


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("abc", "abc", True),
        ("abc", "abcd", False),
        ("*", "abc", True),
        ("*", "a/b", False),
        ("*", "", True),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("a?b", "a☺b", True),
        ("a?b", "a/b", False),
        ("a???b", "a☺b", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("ab[!c]", "abc", True),  # `!` does not negate in Go
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("[z-a]", "m", False),
        ("[^z-a]", "m", True),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("[x\\-]", "z", False),
        ("[*]", "*", True),
        ("[*]", "a", False),
        ("[[]", "[", True),
        ("[&&a]", "&", True),
        ("[a--]x", "bx", "error"),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a\\db", "adb", True),
        ("a.b", "axb", False),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
        ("**", "a/b", False),  # nothing special in COPY
        ("a**b", "axb", True),
        ("[]a]", "]", "error"),
        ("[-]", "-", "error"),
        ("[x-]", "x", "error"),
        ("[-x]", "x", "error"),
        ("[a-b-c]", "a", "error"),
        ("[", "a", "error"),
        ("[^", "a", "error"),
        ("[^bc", "a", "error"),
        ("a[", "a", "error"),
        ("\\", "a", "error"),
    ],
)
def test_a_copy_pattern_matches_as_filepath_match(pattern: str, path: str, expected: bool | str) -> None:
    if expected == "error":
        with pytest.raises(PatternError):
            match(pattern, path)
    else:
        assert match(pattern, path) is expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**", "file", "exact"),
        ("**", "dir/file", "exact"),
        ("**/", "dir/file", "exact"),
        ("**/**", "dir/file", "exact"),
        ("dir/**", "dir/file", "exact"),
        ("dir/**", "dir/dir2/file", "exact"),
        ("dir/**", "dir", "no"),
        ("dir**", "dir", "exact"),
        ("dir**", "directory/file", "exact"),
        ("**/dir", "dir", "exact"),
        ("**/dir", "dir/file", "inside"),
        ("**/dir", "a/b/dir", "exact"),
        ("**/dir", "xdir", "no"),
        ("**/dir2/*", "dir/dir2/file", "exact"),
        ("**/dir2/**", "dir/dir2/dir3/file", "exact"),
        ("**/dir2/**", "dir/dir2", "no"),
        ("**file", "file", "exact"),
        ("**file", "dir/file", "exact"),
        ("**file", "dir/myfile", "exact"),
        ("**/file*", "dir/dir/file.txt", "exact"),
        ("**/file*.txt*", "dir/dir/file.txt", "exact"),
        ("**/**/*.txt", "file.txt", "exact"),
        ("**/**/*.txt", "dir/dir/file.txt", "exact"),
        ("**/*.txt2", "dir/file.txt", "no"),
        ("a**/*.txt", "a/file.txt", "exact"),
        ("a**/*.txt", "a/dir/dir/file.txt", "exact"),
        ("a/*.txt", "a/dir/file.txt", "no"),
        ("a/*.txt**", "a/file.txt", "exact"),
        ("a/**/b", "a/b", "exact"),
        ("a/**/b", "a/x/y/b", "exact"),
        ("a/**/b", "ab", "no"),
        ("**/.foo", ".foo", "exact"),
        ("**/.foo", "bar.foo", "no"),
        ("a", "a/b/c", "inside"),
        ("*", "a/b", "inside"),
        ("./a/", "a", "exact"),
        ("/a//b/../c", "a/c", "exact"),
        ("  a  ", "a", "exact"),
        ("a b", "a b", "exact"),
        ("../a", "a", "no"),
        (".", "a", "no"),
        ("/", "a", "no"),
        ("a\\*b", "a*b", "exact"),
        ("a(b)c/def", "a(b)c/def", "exact"),
    ],
)
def test_a_line_leaves_out_what_it_matches_and_what_is_inside(pattern: str, path: str, expected: str) -> None:
    ignore = Ignore.parse(pattern)
    assert ignore.excludes(path) is (expected != "no")
    assert ignore.rules[0].matches(path) is (expected == "exact")


@pytest.mark.parametrize(
    ("lines", "path", "excluded"),
    [
        (["*.go", "!main.go"], "main.go", False),
        (["!main.go", "*.go"], "main.go", True),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other.md", True),
        (["docs/*", "!docs/README.md"], "docs/README.md", False),
        (["**", "!util/docker/web"], "util/docker/web/foo", False),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
        (["**", "!dist/*.whl"], "dist/a-1.0+g08.whl", False),
        (["a", "!a/b", "a"], "a/b/c", True),
        (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
        (["*.md", "!README*.md"], "README-public.md", False),
        (["a", "! /a/b"], "a/b", False),
        (["# a", "b"], "a", False),
        (["# a", "b"], "# a", False),
        ([" # a"], "# a", True),  # only a hash at the very beginning is a comment
        (["", "   ", "a"], "a", True),
    ],
)
def test_the_last_line_that_matches_decides(lines: list[str], path: str, excluded: bool) -> None:
    assert Ignore.parse("\n".join(lines)).excludes(path) is excluded


def test_lines_may_end_the_windows_way_and_begin_with_a_byte_order_mark() -> None:
    ignore = Ignore.parse(b"\xef\xbb\xbfa\r\nb\r\n")
    assert [ignore.excludes(path) for path in ("a", "b", "c")] == [True, True, False]


@pytest.mark.parametrize(
    ("lines", "directory", "descend"),
    [
        ([], "a", True),
        (["a"], "a", False),
        (["a"], "b", True),
        (["a", "!b"], "a", False),
        (["a", "!a/b/c"], "a", True),
        (["a", "!a/b/c"], "a/b", True),
        (["a", "!a/b/c"], "a/x", False),
        (["a", "!ab"], "a", False),
        (["a", "!a/x*/c"], "a", True),
        (["a", "!a/x*/c"], "a/y", False),
        (["a", "!a/x*/c"], "a/xy", True),
        (["*", "!**/c"], "a/b", True),
        (["*", "!**/c.txt"], "a/b", True),
        (["*", "!*.txt"], "a", True),
        (["*"], "", True),
    ],
)
def test_a_directory_that_is_left_out_is_entered_only_for_what_is_taken_back(
    lines: list[str], directory: str, descend: bool
) -> None:
    assert Ignore.parse("\n".join(lines)).may_descend(directory) is descend


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a\n[", 2, "a character class that is not closed"),
        ("a\n\n!\n", 3, "'!' stands alone"),
        ("! ", 1, "'!' stands alone"),
        ("a\\", 1, "ends in a backslash"),
        ("a\n" * (MAX_PATTERNS + 1), MAX_PATTERNS + 1, "at most"),
        ("x" * 5000, 1, "at most 4096 characters"),
        (" " * (1024 * 1024 + 1), 1, "at most 1048576 bytes"),
    ],
)
def test_a_wrong_line_is_named(text: str, line: int, problem: str) -> None:
    with pytest.raises(IgnoreError, match=problem) as caught:
        Ignore.parse(text)
    assert caught.value.line == line


def test_patterns_of_exclude_have_no_comments() -> None:
    assert Ignore.of(["#a", "!#a/b"]).excludes("#a/c")
    assert not Ignore.of(["#a", "!#a/b"]).excludes("#a/b")


def test_a_pattern_with_many_wildcards_is_done_at_once() -> None:
    deep = compiled("**/a/" * 200 + "b", deep=True)
    assert not deep.matches("a/" * 2000 + "c")
    flat = compiled("*a" * 500 + "b", deep=False)
    assert not flat.matches("a" * 4000)
    assert flat.matches("xa" * 500 + "b")


def test_a_path_may_be_as_deep_as_it_likes() -> None:
    ignore = Ignore.parse("x\na/a\n!a/a/a/b\n")
    assert ignore.excludes("a/" * 20_000 + "b")
    assert not ignore.excludes("b/" * 20_000 + "b")


def test_what_is_a_pattern_is_known() -> None:
    assert [has_wildcards(text) for text in ("a", "a*", "a\\*", "a\\\\*", "[a]", "a?", "\\[a]")] == [
        False,
        True,
        False,
        True,
        True,
        True,
        False,
    ]
