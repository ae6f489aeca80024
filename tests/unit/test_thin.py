"""Commands that only look are thin: what takes long to import is not imported for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"pydantic", "pyroute2", "yaml", "uvicorn", "starlette", "rich", "urllib3", "watchfiles", "asyncio"}
STANDARD = {"email", "fractions", "http", "shutil", "ssl"}
SCRIPT = Path(__file__).parents[2] / "contrib" / "bin" / "stead"

PROGRAM = """
import sys
from agent.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["ps"],
        ["status"],
        ["history"],
        ["explain", "web"],
        ["logs", "web"],
        ["exec", "web", "true"],
        ["wait", "web"],
        ["attach", "web"],
        ["inspect", "container", "web"],
        ["container", "inspect", "web"],
        ["container", "ls", "-a"],
        ["port", "web"],
        ["top", "web"],
        ["stats", "--no-stream"],
        ["image", "ls"],
        ["--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_command_that_only_looks_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    roots = ["--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *roots, *words], capture_output=True, text=True, timeout=60
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith("imported:"), done.stderr
    heavy = HEAVY if words == ["--version"] else HEAVY | STANDARD  # it reads the metadata of the installation
    assert heavy & set(last.split()) == set()


def test_the_script_is_the_command_and_imports_no_more() -> None:
    program = f"import sys; exec(open({str(SCRIPT)!r}).read())"
    words = [sys.executable, "-X", "importtime", "-c", program, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("stead ")
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    assert "re" not in names[: names.index("agent.cli.main")]
