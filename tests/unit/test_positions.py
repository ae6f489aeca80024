"""A key or value is found where it stands: in tables, inline tables, arrays, dotted keys, flow and block."""

from __future__ import annotations

import pytest

from specs.parse import parse
from specs.positions import Path

TOML = '''\
project = "shop"  # [container.no]
"quoted key" = 1
'single' = { "in\\u0073ide" = [1, { deep = "x" }] }
title = """
[container.not]
web = 1
"""

[container.web]
image = "nginx"
ports = [
  "80:80",   # a comment with ]
  { target = 81, published = 82 },
]
a.b . c = 3

  [container.web.healthcheck]
  test = ["CMD", "x"]

[[container.web.io]]
device = "/dev/sda"

[[container.web.io]]
device = "/dev/sdb"
[container.web.io.more]
x = 'it''s'

[ container . "db" ]
image = """one"""
'''.replace("x = 'it''s'", "x = 'its'")


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("project",), (1, 1), (1, 11)),
        (("quoted key",), (2, 1), (2, 16)),
        (("single",), (3, 1), (3, 12)),
        (("single", "inside"), (3, 14), (3, 30)),
        (("single", "inside", 0), (3, 31), (3, 31)),
        (("single", "inside", 1, "deep"), (3, 36), (3, 43)),
        (("title",), (4, 1), (4, 9)),
        (("container",), (9, 2), (9, 2)),
        (("container", "web"), (9, 1), (9, 1)),
        (("container", "web", "image"), (10, 1), (10, 9)),
        (("container", "web", "ports"), (11, 1), (11, 9)),
        (("container", "web", "ports", 0), (12, 3), (12, 3)),
        (("container", "web", "ports", 1), (13, 3), (13, 3)),
        (("container", "web", "ports", 1, "published"), (13, 18), (13, 30)),
        (("container", "web", "a", "b", "c"), (15, 7), (15, 11)),
        (("container", "web", "a", "b"), (15, 3), (15, 3)),
        (("container", "web", "healthcheck"), (17, 3), (17, 3)),
        (("container", "web", "healthcheck", "test", 1), (18, 18), (18, 18)),
        (("container", "web", "io"), (20, 1), (20, 1)),
        (("container", "web", "io", 1), (23, 1), (23, 1)),
        (("container", "web", "io", 1, "device"), (24, 1), (24, 10)),
        (("container", "web", "io", 1, "more", "x"), (26, 1), (26, 5)),
        (("container", "db"), (28, 1), (28, 1)),
        (("container", "db", "image"), (29, 1), (29, 9)),
        (("container", "db", "nowhere", "x"), (28, 1), (28, 1)),
        (("nowhere",), (1, 1), (1, 1)),
    ],
)
def test_toml(path: Path, key: tuple[int, int], value: tuple[int, int]) -> None:
    (document,), problems = parse("a.toml", TOML.encode())
    assert problems == []
    assert document.positions.key(path) == key
    assert document.positions.value(path) == value


YAML = """\
project: shop
x-base: &base
  environment:
    A: "1"
container:
  web:
    <<: *base
    image: nginx
    ports:
      - 80:80
      - {target: 81, published: 82}
    "command":
    - sh
    -   - nested
    labels: {a: b,
             äöü: ẞ, c: d}
    text: |
      two
      lines
  db: {<<: [*base],
    image: 'folded
      text'}
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("project",), (1, 1), (1, 10)),
        (("container", "web"), (6, 3), (7, 5)),
        (("container", "web", "image"), (8, 5), (8, 12)),
        (("container", "web", "environment", "A"), (4, 5), (4, 8)),
        (("container", "web", "ports", 0), (10, 9), (10, 9)),
        (("container", "web", "ports", 1, "published"), (11, 22), (11, 33)),
        (("container", "web", "command"), (12, 5), (13, 5)),
        (("container", "web", "command", 1, 0), (14, 11), (14, 11)),
        (("container", "web", "labels", "äöü"), (16, 14), (16, 19)),
        (("container", "web", "labels", "c"), (16, 22), (16, 25)),
        (("container", "web", "text"), (17, 5), (17, 11)),
        (("container", "db"), (20, 3), (20, 7)),
        (("container", "db", "image"), (21, 5), (21, 12)),
        (("container", "db", "environment", "A"), (4, 5), (4, 8)),
        (("container", "db", "nowhere"), (20, 3), (20, 7)),
    ],
)
def test_yaml(path: Path, key: tuple[int, int], value: tuple[int, int]) -> None:
    (document,), problems = parse("a.yaml", YAML.encode())
    assert problems == []
    assert document.positions.key(path) == key
    assert document.positions.value(path) == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[container.web]\n", 1),
        ("a = 1\n\n  [container.web]\n", 3),
        ('t = """\n[container.web]\n"""\n[container.web]\n', 4),
        ("t = '''\n[container.web]\n'''\n[container.web]\n", 4),
        ("[container.web.healthcheck]\n[container.web]\n", 2),
        ("[container]\nweb = {}\n", 2),
        ("container.web.image = 'a'\n", 1),
    ],
)
def test_the_table_of_an_object_is_found_without_a_scan_too(text: str, line: int) -> None:
    (document,), _ = parse("a.toml", text.encode())
    assert document.positions.table(("container", "web"))[0] == line


def test_positions_in_the_second_document_of_a_file_count_from_the_file_s_begin() -> None:
    documents, _ = parse("a.yaml", b"a: 1\n---\nb: 2\n")
    assert documents[1].positions.key(("b",)) == (3, 1)
