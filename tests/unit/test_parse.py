"""TOML and YAML become the data that their specifications say, or problems at their place."""

from __future__ import annotations

from typing import Any

import pytest

from specs import parse as parsing
from specs.parse import parse
from specs.shapes import text


def problems_of(file: str, content: bytes | str) -> list[str]:
    data = content.encode() if isinstance(content, str) else content
    documents, problems = parse(file, data)
    assert problems, f"nothing wrong in {documents}"
    return [str(problem) for problem in problems]


def yaml_value(written: str) -> Any:
    documents, problems = parse("a.yaml", f"k: {written}\n".encode())
    assert problems == []
    return documents[0].data["k"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("22:22", "22:22"),
        ("1:30:00", "1:30:00"),
        ("NO", "NO"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ('""', ""),
        ("'5'", "5"),
        ("5", 5),
        ("-5", -5),
        ("0x1F", 31),
        ("0o17", 15),
        ("0644", 644),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", float("inf")),
        ("1.2.3", "1.2.3"),
        ("2001-12-14", "2001-12-14"),
        ("=", "="),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_yaml_is_read_by_the_core_schema_of_1_2(written: str, value: object) -> None:
    found = yaml_value(written)
    assert found == value
    assert isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.parametrize("written", ["1.10", "0644", "0x1F", "1e3", "5", "-0", "+5", "1.0", "0.10"])
def test_a_number_that_is_meant_as_text_stays_as_written(written: str) -> None:
    assert text(yaml_value(written)) == written


def test_a_decimal_of_toml_that_is_meant_as_text_stays_as_written() -> None:
    documents, _ = parse("a.toml", b"v = 1.10\n")
    assert text(documents[0].data["v"]) == "1.10"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a: &x {p: 1, q: 2}", "b: {<<: *x, q: 3}"], {"p": 1, "q": 3}),
        (["a: &x {p: 1}", "c: &y {p: 2, r: 4}", "b: {<<: [*x, *y]}"], {"p": 1, "r": 4}),
        (["a: &x {p: 1}", "b: {q: 3, <<: *x}"], {"q": 3, "p": 1}),
        (["a: &x {p: 1}", "c: &y {<<: *x, s: 1}", "b: {<<: *y}"], {"s": 1, "p": 1}),
        (["b: {'<<': 1}"], {"<<": 1}),
    ],
)
def test_merge_keys_fill_in_what_is_not_there(lines: list[str], expected: dict[str, int]) -> None:
    documents, problems = parse("a.yaml", "\n".join(lines).encode())
    assert problems == []
    assert documents[0].data["b"] == expected


def test_each_document_of_a_yaml_file_is_one_and_empty_ones_are_none() -> None:
    documents, problems = parse("a.yaml", b"---\n---\na: 1\n---\n# nothing\n---\nb: 2\n")
    assert problems == []
    assert [document.data for document in documents] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.toml", "a = \n", "a.toml:1:5: cannot read TOML: invalid value"),
        ("a.toml", "a = 1\nb = [1,\n  c", "a.toml:3:3: cannot read TOML: invalid value"),
        ("a.toml", 'a = "x', "a.toml:1:7: cannot read TOML: unterminated string"),
        ("a.toml", "a = 1\na = 2\n", "a.toml:2:1: cannot read TOML: a is defined already"),
        ("a.toml", "[a]\nb = 1\n\n  [a]\n", "a.toml:4:3: cannot read TOML: a is defined already"),
        ("a.toml", "[c.w]\ni = 1\ni = [\n1,\n]\n", "a.toml:3:1: cannot read TOML: c.w.i is defined already"),
        ("a.toml", "a = {b = 1, b = 2}\n", "a.toml:1:13: cannot read TOML: a.b is defined already"),
        ("a.toml", "a = {b = 1}\n[a.c]\n", "a.toml:2:1: cannot read TOML: a.c is defined already"),
        ("a.yaml", "a: [\n b: }", "a.yaml:2:5: cannot read YAML: did not find expected node content"),
        ("a.yaml", "a: 1\n\tb: 2\n", "a.yaml:2:1: cannot read YAML: found"),
        ("a.yaml", "a: *x\n", "a.yaml:1:4: cannot read YAML: found undefined alias"),
        ("a.yaml", "äö: \x01\n", "a.yaml:1:5: cannot read YAML: control characters are not allowed"),
        ("a.yaml", "a: 1\nb: 2\na: 3\n", "a.yaml:3:1: duplicate key 'a': it stands in line 1 too"),
        ("a.yaml", "x: {a: 1, a: 2}\n", "a.yaml:1:11: duplicate key 'a': it stands in line 1 too"),
        ("a.yaml", "- a\n", "a.yaml:1:1: a spec is a mapping: write `container:` and its names"),
        ("a.yaml", "a: !!python/object:os.system x\n", "a.yaml:1:4: cannot read YAML: tag !!python/object"),
        ("a.yaml", "a: !mine {}\n", "a.yaml:1:4: cannot read YAML: tag !mine is not supported"),
        ("a.yaml", "a: !!int x\n", "a.yaml:1:4: cannot read YAML: 'x' is no int"),
        ("a.yaml", "? [a, b]\n: 1\n", "a.yaml:1:3: cannot read YAML: a key is text"),
        ("a.yaml", "a: {<<: 3}\n", "a.yaml:1:9: cannot read YAML: << merges mappings only"),
        (
            "a.yaml",
            "a: &x\n  b: *x\n",
            "a.yaml:1:4: cannot read YAML: nested deeper than 64 levels, or an alias",
        ),
        ("a.toml", b"a = '\xff'\n", "a.toml:1:6: cannot read text: not UTF-8"),
        ("a.yaml", b"\xff\xfea\x00:\x00", "a.yaml:1:1: cannot read text: not UTF-8"),
    ],
)
def test_what_cannot_be_read_has_its_place(file: str, content: bytes | str, expected: str) -> None:
    (found,) = problems_of(file, content)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("file", "content", "cure"),
    [
        ("a.toml", "a = nginx\n", "text stands in quotes"),
        ("a.toml", 'a: "nginx"\n', "TOML writes key = value"),
        ("a.toml", "a = { b = 1,\n c = 2 }\n", "an inline table stands on one line"),
        ("a.toml", 'a = "x\nb = 1\n', "the closing quote is missing"),
        ("a.toml", "a = 0644\n", "a mode is 0o755, other text stands in quotes"),
        ("a.yaml", "a:\n  b:c\n  d: e\n", "a blank follows a key's colon"),
        ("a.yaml", "a: echo b: c\n", "text with a colon and a blank in it is quoted"),
        ("a.yaml", "a: @b\n", "text that begins with @, ` or % is quoted"),
        ("a.yaml", "a: *b\n", "text that begins with * is quoted"),
        ("a.yaml", "a: [${B}]\n", "text with [ ] { } in it is quoted between brackets"),
        ("a.yaml", "a:\n  b: 1\n c: 2\n", "keys of one table begin in one column"),
    ],
)
def test_a_common_slip_comes_with_its_cure(file: str, content: str, cure: str) -> None:
    assert cure in problems_of(file, content)[0]


def test_several_duplicate_keys_are_several_problems_and_the_first_one_holds() -> None:
    documents, problems = parse("a.yaml", b"a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert [(problem.line, problem.column) for problem in problems] == [(2, 1), (3, 11)]
    assert documents[0].data == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize("file", ["a.toml", "a.yaml"])
def test_an_empty_file_is_no_problem(file: str) -> None:
    for content in (b"", b"\n", b"# nothing\n", b"\xef\xbb\xbf"):
        documents, problems = parse(file, content)
        assert problems == []
        assert [document.data for document in documents] in ([], [{}])


@pytest.mark.parametrize(
    ("file", "lines", "column"),
    [("a.toml", ("a = 1", 'b = "x"'), 5), ("a.yaml", ("a: 1", "b: x"), 4)],
)
def test_a_byte_order_mark_and_windows_line_ends_move_no_position(
    file: str, lines: tuple[str, str], column: int
) -> None:
    (document,), problems = parse(file, "\ufeff{}\r\n{}\r\n".format(*lines).encode())
    assert problems == []
    assert document.data == {"a": 1, "b": "x"}
    assert document.positions.key(("a",)) == (1, 1)
    assert document.positions.value(("b",)) == (2, column)


@pytest.mark.parametrize("file", ["a.toml", "a.yaml"])
def test_a_file_that_is_too_large_is_not_read(file: str) -> None:
    content = b"#" * (parsing.MAX_FILE_BYTES + 1)
    assert problems_of(file, content) == [f"{file}:1:1: cannot read file: larger than 1 MiB"]


def test_what_nests_too_deeply_is_refused_before_anything_overflows() -> None:
    deep = "[" * 100_000
    assert problems_of("a.toml", f"a = {deep}")[0].startswith("a.toml:1:1: cannot read TOML: nested")
    assert "nested deeper than 64 levels" in problems_of("a.yaml", f"a: {deep}")[0]
    block = "".join(" " * depth + "a:\n" for depth in range(1000))
    assert "nested deeper than 64 levels" in problems_of("a.yaml", block)[0]
    documents, problems = parse("a.yaml", ("a: " + "[" * 60 + "]" * 60).encode())
    assert len(documents) == 1 and problems == []


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (found,) = problems_of("a.yaml", "\n".join(lines))
    assert "more than 100000 nodes, aliases included" in found


def test_a_merge_that_multiplies_is_refused() -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(50)) + "}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 7)]
    (found,) = problems_of("a.yaml", "\n".join(lines))
    assert "more than 100000 nodes" in found
