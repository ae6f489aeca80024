"""Settings: what is read, and that every mistake is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.planner.model import Collecting
from agent.settings import Settings, SettingsError, load, parse
from runtime.images.garbage import Limits

GOOD = """
[[source]]
name = "shop"
git = "git@example.org:team/shop.git"
ref = "main"
interval = "15s"
ssh_key = "/etc/stead/key"
path = "deploy"
variables = { STAGE = "prod" }

[[source]]
directory = "/srv/hello"

[node]
name = "n1"
labels = { role = "web" }

[registry."registry.example:5000"]
insecure = true
mirrors = ["mirror.example"]

[listen]
metrics = "127.0.0.1:9999"

[limits]
parallel = 4
pulls = 2

[images]
gc_interval = "10m"
gc_high = 90
keep_for = "1d"
unused_for = "30d"
"""


def test_every_setting_is_read() -> None:
    found = parse(GOOD)
    assert [source.label for source in found.source] == ["shop", "hello"]
    assert found.source[0].interval == 15.0
    assert found.node_name == "n1"
    assert found.registry["registry.example:5000"].insecure
    assert found.planner_limits().parallel == 4
    assert found.collecting() == Collecting(600.0, Limits(0.9, 0.8, 86400.0, 30 * 86400.0))


def test_images_are_never_removed_where_the_settings_say_so() -> None:
    assert parse("[images]\ngc = false\n").collecting() is None
    assert Settings().collecting() is not None


def test_without_a_settings_file_the_defaults_hold(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        load(tmp_path / "none.toml")
    assert Settings().listen.metrics == "127.0.0.1:9420"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[[source]]\nname = 'a'\n",
            "stead.toml:1:1: source.0: a source has exactly one of directory and git",
        ),
        ("[node]\nnmae = 'x'\n", "stead.toml:2:1: node.nmae: unknown key"),
        (
            '[listen]\nmetrics = "127.0.0.1:99999"\n',
            "stead.toml:2:1: listen.metrics: 99999 is no port: 0 to 65535",
        ),
        ("[listen]\n\nmetrics = 5\n", "stead.toml:3:1: listen.metrics: input should be a valid string"),
        (
            "[[source]]\ndirectory = '/a'\n[[source]]\ndirectory = 'b'\n",
            "stead.toml:4:1: source.1.directory: 'b' is not an absolute path",
        ),
        (
            "[[source]]\ndirectory='/x/a'\n[[source]]\ngit='/y/a.git'\n",
            "stead.toml:1:1: two sources are named a; give one of them another name",
        ),
        ("[limits]\nparallel = 0\n", "greater than or equal to 1"),
        ("[images]\ngc_high = 70\n", "gc_low is above gc_high"),
        ("[images]\ngc_high = 101\n", "less than or equal to 100"),
        ("[[source]\n", "line 1"),
        ("[[source]]\ngit = 'x'\nref = '--upload-pack=x'\n", "source.0.ref"),
        ("[[source]]\ngit = 'x'\npath = 'a/../../b'\n", "path is relative to the source"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("[node]\nfoo = 1\n[listen]\nbar = 2\n[limits]\npulls = 'x'\n")
    assert len(caught.value.problems) == 3
