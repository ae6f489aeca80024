"""Which files of a source are specs; `.steadignore` reads like .gitignore."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from specs.ignore import Ignored, spec_files


def test_every_toml_and_yaml_file_is_a_spec_but_hidden_ones() -> None:
    files = dict.fromkeys(
        (
            "A.TOML",
            "a.toml",
            "b/c.yaml",
            "d.yml",
            ".e.toml",
            "_f.toml",
            ".g/h.toml",
            "_i/j.toml",
            "k.json",
            "l.toml.bak",
        ),
        b"",
    )
    assert spec_files(files) == ["A.TOML", "a.toml", "b/c.yaml", "d.yml"]


def test_an_ignore_file_holds_for_its_directory_and_below() -> None:
    files = {".steadignore": b"x.toml\n", "app/.steadignore": b"*.yaml\n!keep.yaml\n"}
    paths = ("x.toml", "app/x.toml", "app/a.yaml", "app/b/keep.yaml", "a.yaml")
    assert spec_files({**files, **dict.fromkeys(paths, b"")}) == ["a.yaml", "app/b/keep.yaml"]


RULES = {
    "*.toml": ("a.toml", "b/a.toml"),
    "/*.toml": ("a.toml", "b/a.toml"),
    "b/": ("b/a.toml", "a/b/c.toml", "b.toml"),
    "/b": ("b/a.toml", "a/b/c.toml"),
    "a/b": ("a/b/c.toml", "x/a/b/c.toml"),
    "**/b": ("b/x.toml", "a/b/c.toml"),
    "a/**": ("a/x.toml", "a/b/c.toml", "a.toml"),
    "a/**/z.toml": ("a/z.toml", "a/b/z.toml", "a/b/c/z.toml"),
    "?.toml": ("a.toml", "ab.toml"),
    "[ab].toml": ("a.toml", "c.toml"),
    "[!ab].toml": ("a.toml", "c.toml"),
    "# a.toml": ("# a.toml", "a.toml"),
    "\\#a.toml": ("#a.toml", "a.toml"),
    "\\!a.toml": ("!a.toml", "a.toml"),
    "*.toml\n!a.toml": ("a.toml", "b/a.toml", "c.toml"),
    "b\n!b/a.toml": ("b/a.toml", "b/c.toml"),
    "b/*\n!b/a.toml": ("b/a.toml", "b/c.toml"),
    "a.toml ": ("a.toml",),
    "a.toml\\ ": ("a.toml", "a.toml "),
    "a*b.toml": ("ab.toml", "axb.toml", "a/b.toml"),
    "[z-a].toml": ("a.toml", "b.toml"),
    "a.[tx]oml": ("a.toml", "a.xoml"),
    "": ("a.toml",),
}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git to compare with")
@pytest.mark.parametrize("rules", RULES)
def test_the_rules_are_those_of_git(rules: str, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text(rules + "\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True, capture_output=True)
    words = ["git", "-C", str(tmp_path), "check-ignore", "--no-index", "--stdin", "-z"]
    asked = "\0".join(RULES[rules]) + "\0"
    for path in RULES[rules]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    done = subprocess.run(words, input=asked, capture_output=True, text=True, check=False)
    ignored = Ignored({".steadignore": rules.encode()})
    assert [path for path in RULES[rules] if path in ignored] == done.stdout.split("\0")[:-1]
