"""Whatever is in the files: TOML and YAML agree, positions are true, nothing crashes, fingerprints hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specs.documents import Container, SpecFile
from specs.interpolate import InterpolationError, interpolate, parse_env
from specs.parse import Document, parse
from specs.positions import Path
from specs.resolve import resolve
from specs.schema import json_schema
from specs.written import text_of
from tests.spec_text import desired_of

TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029\ufeff\x85"), max_size=8
)
KEY = st.one_of(st.sampled_from(["a", "web", "container", "x-y", "1", "a.b", ""]), TEXT)
SCALAR = st.one_of(
    st.integers(-(2**40), 2**40),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    TEXT,
    st.sampled_from(["no", "22:22", "0644", "1e3", "~", "<<", "# x", "- a", "{", "${A}", "'", '"', "'''"]),
)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4), max_leaves=12
)
TABLE = st.dictionaries(KEY, VALUE, max_size=5)
CALM = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def one_document(file: str, text: str) -> Document:
    documents, problems = parse(file, text.encode())
    assert problems == []
    assert len(documents) == 1
    return documents[0]


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same kind: True is not 1, 1 is not 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    kinds = (bool, int, float, str)
    return bool(one == other) and all(isinstance(one, kind) == isinstance(other, kind) for kind in kinds)


@CALM
@given(TABLE)
def test_toml_and_yaml_of_the_same_data_are_the_same_document(data: dict[str, Any]) -> None:
    toml = one_document("a.toml", tomli_w.dumps(data))
    assert same(toml.data, data)
    for text in (json.dumps(data, ensure_ascii=False), block(data)):
        assert same(one_document("a.yaml", text.replace("\x7f", "\\u007f")).data, data)


def block(value: Any, indent: str = "") -> str:
    """In YAML's block style, with plain numbers and quoted text."""
    if isinstance(value, dict) and value:
        return "".join(
            f"\n{indent}{json.dumps(k, ensure_ascii=False)}: {block(v, indent + '  ')}"
            for k, v in value.items()
        )
    if isinstance(value, list) and value:
        return "".join(f"\n{indent}- {block(item, indent + '  ')}" for item in value)
    return json.dumps(value, ensure_ascii=False)


def paths(data: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    inner: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        inner = list(data.items())
    elif isinstance(data, list):
        inner = list(enumerate(data))
    return [(path, data), *(found for key, value in inner for found in paths(value, (*path, key)))]


class Marked:
    """Writes text piece by piece and remembers where each key and value began."""

    def __init__(self) -> None:
        self.text = ""
        self.keys: dict[Path, int] = {}
        self.values: dict[Path, int] = {}

    def place(self, offset: int) -> tuple[int, int]:
        before = self.text[:offset]
        return before.count("\n") + 1, offset - before.rfind("\n")

    def value(self, path: Path, value: Any, pair: Callable[[Path, str, Any], None]) -> None:
        self.values[path] = len(self.text)
        if isinstance(value, dict | list):
            opening, closing = "{}" if isinstance(value, dict) else "[]"
            self.text += opening
            for number, item in enumerate(value):
                self.text += ", " if number else " "
                if isinstance(value, dict):
                    pair((*path, item), item, value[item])
                else:
                    self.keys[(*path, number)] = len(self.text)
                    self.value((*path, number), item, pair)
            self.text += closing
        else:
            self.text += json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    def toml(self, path: Path, key: str, value: Any) -> None:
        self._pair(path, key, value, " = ", self.toml)

    def yaml(self, path: Path, key: str, value: Any) -> None:
        self._pair(path, key, value, ": ", self.yaml)

    def _pair(
        self, path: Path, key: str, value: Any, between: str, pair: Callable[[Path, str, Any], None]
    ) -> None:
        self.keys[path] = len(self.text)
        self.text += json.dumps(key, ensure_ascii=False).replace("\x7f", "\\u007f") + between
        self.value(path, value, pair)


def check_positions(
    file: str, data: dict[str, Any], marked: Marked, pair: Callable[[Path, str, Any], None]
) -> None:
    for number, (key, value) in enumerate(data.items()):
        marked.text += "\n" * (number % 3) + "# comment [a.b]\n"
        pair((key,), key, value)
        marked.text += "\n"
    if not data:
        return
    document = one_document(file, marked.text)
    assert same(document.data, data)
    for path, offset in marked.values.items():
        assert document.positions.value(path) == marked.place(offset)
    for path, offset in marked.keys.items():
        assert document.positions.key(path) == marked.place(offset)


@CALM
@given(TABLE)
def test_positions_in_toml_are_the_true_ones(data: dict[str, Any]) -> None:
    marked = Marked()
    check_positions("a.toml", data, marked, marked.toml)


@CALM
@given(TABLE)
def test_positions_in_yaml_are_the_true_ones(data: dict[str, Any]) -> None:
    marked = Marked()
    check_positions("a.yaml", data, marked, marked.yaml)


NAMES = st.sampled_from(["a", "b", "c-d", "1"])


@CALM
@given(
    st.recursive(
        st.integers(0, 9),
        lambda inner: (
            st.dictionaries(NAMES, inner, min_size=1, max_size=3)
            | st.lists(st.dictionaries(NAMES, inner, min_size=1, max_size=2), min_size=1, max_size=3)
        ),
        max_leaves=12,
    ).map(lambda value: {"t": value})
)
def test_positions_in_tables_and_arrays_of_tables_exist_for_every_path(data: dict[str, Any]) -> None:
    text = tomli_w.dumps(data)
    document = one_document("a.toml", text)
    lines = text.split("\n")
    for path, _ in paths(data)[1:]:
        line, column = document.positions.key(path)
        rest = lines[line - 1][column - 1 :]
        if isinstance(path[-1], str):
            assert rest.startswith((path[-1], "[")), (path, rest)


@CALM
@given(st.binary(max_size=200))
def test_no_bytes_crash_a_parser(content: bytes) -> None:
    for file in ("a.toml", "a.yaml"):
        documents, problems = parse(file, content)
        lines = content.count(b"\n") + content.count(b"\r") + content.decode(errors="replace").count("\x85")
        assert all(1 <= problem.line <= lines + 2 + content.count(b"\xe2") for problem in problems)
        assert all(problem.column >= 1 for problem in problems)
        for document in documents:
            document.positions.key(("a", 0, "b"))
    parse_env(content, {})


SNIPPETS = st.lists(
    st.sampled_from(
        ["container", "web", "image", ":", " ", "  ", "\n", "- ", "{", "}", "[", "]", ",", '"', "'", "=", ".",
         "&a ", "*a", "<<", "!!int ", "|", ">", "#", "---", "?", "${A}", "$", "true", "0644", "\t", '"""',
         "'''", "ä", "\r\n", "~", "%", "\x1b", "\\n"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@CALM
@given(SNIPPETS, SNIPPETS)
def test_no_text_crashes_the_whole_way(one: str, other: str) -> None:
    files = {"a.toml": one.encode(), "p/b.yaml": other.encode(), "p/.env": one.encode(), ".steadignore": b"x"}
    desired, problems = resolve(files, source="s", variables={})
    assert (desired is None) == bool(problems)
    assert list(problems) == sorted(problems)
    for problem in problems:
        assert problem.file in files and problem.line >= 1 and problem.column >= 1
        assert str(problem).isprintable()


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 99999),
        st.floats(),
        TEXT,
        st.sampled_from(["80:80", "1g", "5s", "a"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "test", "target", "source", "type", "path"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def _fields() -> list[str]:
    return sorted(Container.model_fields)


@CALM
@given(st.dictionaries(st.sampled_from(_fields()), JUNK, max_size=5))
def test_no_value_of_any_field_crashes_validation(body: dict[str, Any]) -> None:
    text = json.dumps({"container": {"c": body}}, ensure_ascii=False)
    desired, problems = resolve(
        {"a.yaml": text.encode()}, source="s", variables={"A": "1"}, source_root="/src"
    )
    assert (desired is None) == bool(problems)


@CALM
@given(st.dictionaries(st.sampled_from(_fields()), JUNK, max_size=2))
def test_what_specs_accept_the_schema_accepts(body: dict[str, Any]) -> None:
    data = {"container": {"c": {"image": "a", **body}}}
    try:
        SpecFile.model_validate(data)
    except ValueError:
        return
    VALIDATOR.validate(data)


@given(st.text(st.sampled_from("${}:-?+AB_ ."), max_size=30))
def test_interpolation_ends_with_a_text_or_a_reason(text: str) -> None:
    try:
        interpolate(text, {"A": "1", "B": ""})
    except InterpolationError as error:
        assert str(error)


@given(st.text())
def test_doubled_dollars_are_the_text_itself(text: str) -> None:
    assert interpolate(text.replace("$", "$$"), {}) == text


@given(st.text(st.sampled_from("0123456789.e+-xo"), min_size=1, max_size=8))
def test_what_yaml_takes_for_a_number_is_written_as_it_was(text: str) -> None:
    documents, problems = parse("a.yaml", f"k: {text}\n".encode())
    value = documents[0].data["k"] if documents and not problems else text
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert text_of(value) == text


FIELDS = {
    "command": '["a", "b"]',
    "environment": '{ A = "1", B = "2" }',
    "labels": '["x=1", "y=2"]',
    "memory": '"64m"',
    "ports": '["80:80", "81:81/udp"]',
    "cap_add": '["NET_ADMIN", "CHOWN"]',
    "healthcheck": '{ tcp = ":80", interval = "5s" }',
    "restart": '"on-failure:3"',
    "volumes": '["/a:/b", "/c:/d:ro"]',
    "stop_grace_period": '"1m"',
}
NEUTRAL = {
    "read_only": "false",
    "network_mode": '"bridge"',
    "expose": "[]",
    "pid": '"private"',
    "user": '""',
    "init": "false",
}


@given(st.permutations(sorted(FIELDS)), st.sets(st.sampled_from(sorted(NEUTRAL))))
def test_a_fingerprint_knows_no_order_of_keys_and_no_spelled_out_default(
    order: list[str], neutral: set[str]
) -> None:
    plain = "".join(f"{key} = {FIELDS[key]}\n" for key in sorted(FIELDS))
    shuffled = "".join(f"{key} = {FIELDS[key]}\n" for key in order) + "".join(
        f"{k} = {NEUTRAL[k]}\n" for k in neutral
    )
    head = '[container.c]\nimage = "a"\n'
    one, two = (desired_of({"a.toml": head + text}).containers["default/c"] for text in (plain, shuffled))
    assert (one.identity, one.adjustable, one.facets) == (two.identity, two.adjustable, two.facets)


PROGRAM = """
import sys
from specs.resolve import resolve
from specs.schema import json_schema
files = {name: text.encode() for name, text in eval(sys.argv[1]).items()}
desired, problems = resolve(files, source="s", variables={"A": "1"}, node={"name": "n"}, source_root="/src")
print(desired)
for problem in problems:
    print(problem)
"""


def test_other_interpreters_with_other_hash_seeds_say_the_same() -> None:
    good = {
        "a.toml": '[container.c]\nimage = "a"\n' + "".join(f"{k} = {v}\n" for k, v in FIELDS.items()),
        "p/b.yaml": "container: {x: {image: a, cap_drop: [KILL, ALL]}}\nnetwork: {n: {labels: {b: 1}}}\n",
    }
    bad = {
        "a.toml": '[container.c]\nimag = 1\nports = ["x", "y"]\nulimits = { a = 1, b = 2 }\n',
        "p/b.yaml": "a: 1\nb: 2\nsecret: {s: }\ncontainer: {x: {image: A, secrets: [a], init: true}}\n",
    }
    for files in (good, bad):
        outputs = set()
        for seed in ("0", "1", "4711"):
            environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()}
            command = [sys.executable, "-c", PROGRAM, repr(files)]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True, timeout=60
            )
            outputs.add(done.stdout)
        assert len(outputs) == 1
