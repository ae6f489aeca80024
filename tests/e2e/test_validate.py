"""`stead validate` on directories as people leave them: every mistake at its place, nothing touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from agent.cli.main import main; raise SystemExit(main())"]


def validate(where: Path, *words: str) -> tuple[int, list[str], str]:
    """(exit status, problems, last line)."""
    state = where.parent / "state"
    command = [*COMMAND, "--root", str(state), "--run", str(state), "validate", str(where), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not state.exists()
    *lines, last = (done.stderr or done.stdout).splitlines() or [""]
    return done.returncode, lines, last


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    directory.mkdir()
    return directory


def test_ten_mistakes_in_three_files_are_ten_lines(specs: Path) -> None:
    (specs / "db").mkdir()
    (specs / "web.toml").write_text(
        'project = "shop"\n'
        "[container.web]\n"
        'image = "Nginx"\n'
        'prots = ["8080:80"]\n'
        'depends_on = { db = "helthy" }\n'
        'networks = ["fornt"]\n'
    )
    (specs / "db" / "db.yaml").write_text(
        "project: shop\n"
        "container:\n"
        "  db:\n"
        "    image: postgres\n"
        "    memory: 512\n"
        "    secrets: [password]\n"
        "    healthcheck: {test: [CMD, pg_isready], interval: 5}\n"
        '    environment: ["A=${NOWHERE}", 3]\n'
    )
    (specs / "net.toml").write_text('project = "shop"\n[network.front]\nsubnet = "10.0.0.1/24"\n')
    code, lines, last = validate(specs)
    assert code == 1
    assert lines == [
        "db/db.yaml:5:13: container.db.memory: 512B is too little for a program to start"
        " (6MiB or more; mind the unit)",
        "db/db.yaml:6:15: container.db.secrets[0]: no secret 'password' (declare [secret.password])",
        'db/db.yaml:7:54: container.db.healthcheck.interval: write a duration with its unit ("5s")',
        "db/db.yaml:8:19: container.db.environment[0]: variable 'NOWHERE' is not set"
        " (write ${NOWHERE:-} for an empty default, $${NOWHERE} for a dollar)",
        "db/db.yaml:8:35: container.db.environment[1]: write KEY=VALUE, not a number",
        "net.toml:3:10: network.front.subnet: cannot read subnet '10.0.0.1/24': 10.0.0.1/24 has host bits set"
        " (such as 10.88.7.0/24)",
        "web.toml:3:9: container.web.image: cannot read image reference 'Nginx':"
        " 'library/Nginx' is not a repository (lower case only)",
        "web.toml:4:1: container.web: unknown key 'prots' (did you mean 'ports'?)",
        "web.toml:5:21: container.web.depends_on.db.condition: cannot use 'helthy':"
        " write one of started, healthy, completed (did you mean 'healthy'?)",
        "web.toml:6:13: container.web.networks[0]: no network 'fornt' (did you mean 'front'?)",
    ]
    assert last == "10 problems; nothing was changed"


def test_a_directory_without_a_mistake_says_what_it_declares(specs: Path) -> None:
    (specs / "a.toml").write_text('[container.a]\nimage = "i"\n[volume.v]\n')
    code, lines, last = validate(specs)
    assert (code, lines, last) == (0, [], "1 container, 1 network, 1 volume")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ""),
        (b"\xef\xbb\xbf[volume.v]\r\n", ""),
        (b"[volume.v]\nlabels = { a = '\xff' }\n", "a.toml:2:17: cannot read text: not UTF-8"),
        (b"[volume.v\n", "a.toml:1:10: cannot read TOML: expected ']' at the end of a table declaration"),
        (b"\0", "a.toml:1:1: cannot read TOML: "),
    ],
)
def test_odd_files(specs: Path, content: bytes, expected: str) -> None:
    (specs / "a.toml").write_bytes(content)
    code, lines, _ = validate(specs)
    assert code == bool(expected)
    assert len(lines) == bool(expected)
    assert not lines or lines[0].startswith(expected)


def test_a_file_that_is_too_large_or_leaves_the_source_is_named(specs: Path) -> None:
    (specs / "a.toml").write_bytes(b"#" * ((1 << 20) + 1))
    code, _, last = validate(specs)
    assert code == 1
    assert "a.toml" in last and "larger than 1 MiB" in last
    (specs / "a.toml").unlink()
    (specs.parent / "outside.toml").write_text("[volume.v]\n")
    (specs / "b.toml").symlink_to("../outside.toml")
    code, _, last = validate(specs)
    assert code == 1
    assert "b.toml" in last and "leaves the source" in last
    (specs / "b.toml").unlink()
    (specs / "c.toml").write_text("[volume.v]\n")
    (specs / "d").mkdir()
    os.symlink("../c.toml", specs / "d" / "c.toml")
    assert validate(specs)[0] == 0


def test_variables_of_the_settings_reach_the_command(specs: Path) -> None:
    (specs / "a.toml").write_text('[container.a]\nimage = "i:${TAG}"\n')
    settings = specs.parent / "stead.toml"
    settings.write_text(f'[[source]]\nname = "shop"\ndirectory = "{specs}"\nvariables = {{ TAG = "5" }}\n')
    assert validate(specs, "--settings", str(settings))[0] == 0
    code, lines, _ = validate(specs, "--settings", str(settings), "--name", "other")
    assert code == 1
    assert lines == [
        "a.toml:2:9: container.a.image: variable 'TAG' is not set"
        " (write ${TAG:-} for an empty default, $${TAG} for a dollar)"
    ]
