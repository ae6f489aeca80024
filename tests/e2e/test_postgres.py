"""PostgreSQL with its data on a named volume: replaced, rolled back, its agent killed, all killed at once.

What it said it had committed is there afterwards, and its own checks find nothing. As root.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.agents import COMMAND, Agent
from tests.crash.bomb import REPOSITORY
from tests.crash.box import Box, Nursery, until
from tests.e2e.programs import postgres

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    *(pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}") for tool in ("nft", "dpkg-deb")),
]

SPEC = """project = "shop"
[volume.data]

[container.db]
image = "postgres:15"
user = "postgres"
network_mode = "none"
volumes = ["data:/var/lib/postgresql/data"]
environment = { PGDATA = "/var/lib/postgresql/data", LEVEL = "%s" }
entrypoint = ["/bin/start"]
stop_signal = "SIGINT"
healthcheck = { test = ["CMD", "pg_isready", "-q"], interval = "200ms", timeout = "5s" }
"""
#: One transaction a row, for ever; each is said when it is committed.
WRITE = "while psql -qAt -c 'insert into rows values (default) returning id'; do :; done"


class Database:
    """The container shop/db of a box, under an agent."""

    def __init__(self, box: Box) -> None:
        self.box, self.agent = box, Agent(box)
        self.committed: set[int] = set()  # the rows that were said to be

    def write(self, level: str) -> None:
        (self.box.specs / "db.toml").write_text(SPEC % level)

    def is_ready(self) -> bool:
        """On what the specs say now."""
        row = self.box.ps().get("shop/db", {})
        return row.get("health") == "healthy" and self.agent.converged()

    def sql(self, text: str) -> str:
        return self.box.well("exec", "db", "psql", "-qAt", "-c", text).strip()

    def writer(self) -> tuple[subprocess.Popen[str], threading.Thread]:
        """A program in the container that commits row after row, until the container ends."""
        roots = ["--root", str(self.box.paths.root), "--run", str(self.box.paths.run)]
        command = [*COMMAND, *roots, "exec", "db", "sh", "-c", WRITE]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY
        )

        def follow() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                self.committed.add(int(line))

        thread = threading.Thread(target=follow)
        thread.start()
        return process, thread

    def check(self) -> None:
        """Every row that was said to be committed is there, and the database is whole."""
        there = {int(line) for line in self.sql("select id from rows").split()}
        assert self.committed <= there
        self.box.well("exec", "db", "pg_amcheck", "--all", "--heapallindexed", "--rootdescend")
        assert self.sql("select sum(checksum_failures) from pg_stat_database") in ("", "0")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    nursery = Nursery()
    made = Database(Box(tmp_path, nursery))
    made.box.well("image", "import", str(postgres(tmp_path)), "postgres:15")
    shutil.rmtree(tmp_path / "postgres")
    yield made
    made.agent.end()
    made.box.well("down", str(made.box.specs), "--volumes")
    assert made.box.inventory.strays() == []
    nursery.close()


def test_what_was_committed_outlives_whatever_happens_to_the_container(database: Database) -> None:
    box, agent = database.box, database.agent
    database.write("one")
    agent.start()
    until(database.is_ready, "the database is ready", 60.0)
    found = (box.paths.volumes / "shop/data/_data").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (999, 0o700), "as the image has its directory"
    database.sql("create table rows (id serial primary key, at timestamptz default now())")
    database.sql("create extension amcheck")

    def disturbed(happen: Callable[[], None]) -> None:
        """`happen` while rows are committed; then all of them are there."""
        before = len(database.committed)
        process, thread = database.writer()
        until(lambda: len(database.committed) > before + 5, "rows are committed")
        happen()
        process.wait(60)
        thread.join()
        assert process.stdout is not None
        process.stdout.close()
        until(database.is_ready, "the database is ready again", 60.0)
        database.check()

    def replaced(level: str) -> None:
        id = box.ps()["shop/db"]["id"]
        database.write(level)
        until(lambda: box.ps().get("shop/db", {}).get("id", id) != id, "the container is replaced", 60.0)

    def killed() -> None:
        """Agent, shim and container at once, as when the machine loses its power."""
        row = box.ps()["shop/db"]
        agent.kill()
        box.kill(row["id"])
        agent.start()

    def agent_killed() -> None:
        row = box.ps()["shop/db"]
        agent.kill()
        before = len(database.committed)
        until(lambda: len(database.committed) > before + 5, "rows are committed without an agent")
        agent.start()
        until(agent.converged, "the agent is back")
        after = box.ps()["shop/db"]
        assert (row["id"], row["pid"]) == (after["id"], after["pid"]), "the container went on"
        replaced("one")  # a rollback

    disturbed(lambda: replaced("two"))
    disturbed(agent_killed)
    disturbed(killed)
    assert len(database.committed) > 20
