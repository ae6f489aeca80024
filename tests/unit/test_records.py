"""Requests are kept as JSON; the database is migrated, and refuses what is newer."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.database import VERSION, Database
from runtime.faults import Fault
from runtime.records import (
    CREATED,
    RUNNING,
    ContainerRecord,
    delete_container,
    insert_container,
    read_container,
    read_containers,
    set_wanted,
    update_request,
)
from runtime.requests import decode_request, encode_request
from runtime.wishes import Attachment, ContainerRequest, IoLimit, LimitsRequest, ProbeRequest, RestartRequest
from specs.values import ImageRef, MountPoint, PortBinding

PLAIN = ContainerRequest(
    name="shop/web",
    source="s",
    identity="i",
    adjustable="a",
    facets="{}",
    image=ImageRef.parse("registry.example:5000/web:1"),
)
FULL = replace(
    PLAIN,
    command=("serve", "--fast"),
    entrypoint=(),
    environment={"A": "1"},
    ports=(PortBinding("127.0.0.1", 8080, 80, "tcp"), PortBinding("", 53, 53, "udp")),
    mounts=(MountPoint("volume", "shop/data", "/data", read_only=True),),
    networks=(Attachment("shop/default", ("www",), "10.88.1.9"),),
    probe=ProbeRequest(http="http://:80/", interval=0.5),
    restart=RestartRequest(policy="on-failure", max_retries=3),
    extra_hosts=(("db", "10.0.0.1"),),
    ulimits=(("nofile", 100, 200),),
    devices=(("/dev/fuse", "/dev/fuse", "rwm"),),
    limits=LimitsRequest(cpus=0.5, memory=1 << 20, io=(IoLimit("8:0", read_bps=5),)),
)


@pytest.mark.parametrize("request_", [PLAIN, FULL])
def test_a_request_comes_back_as_it_was_kept(request_: ContainerRequest) -> None:
    assert decode_request(encode_request(request_)) == request_


def test_defaults_are_not_kept_so_that_a_later_release_finds_its_own() -> None:
    assert set(json.loads(encode_request(PLAIN))) == {
        "name",
        "source",
        "identity",
        "adjustable",
        "facets",
        "image",
    }


def test_fields_of_a_later_release_are_ignored() -> None:
    document = json.loads(encode_request(FULL))
    document["invented"] = 1
    document["probe"]["invented"] = 2
    assert decode_request(json.dumps(document)) == FULL


def record(id: str, request: ContainerRequest) -> ContainerRecord:
    text = encode_request(request)
    return ContainerRecord(
        id, request.name, "s", "shop", request.identity, request.adjustable, "web", "im", text, CREATED, 1.5
    )


def test_records_are_found_by_name_and_by_id(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db")
    with database.write() as connection:
        insert_container(connection, record("id1", PLAIN))
        set_wanted(connection, "id1", RUNNING)
        update_request(connection, "id1", replace(FULL, identity="i2"))
    found = read_container(database.read(), "shop/web")
    assert found == read_container(database.read(), "id1")
    assert found is not None and found.wanted == RUNNING and found.identity == "i2"
    with database.write() as connection:
        delete_container(connection, "id1")
    assert read_containers(database.read()) == []
    database.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db")
    with pytest.raises(RuntimeError), database.write() as connection:
        insert_container(connection, record("id1", PLAIN))
        with database.write() as nested:
            insert_container(nested, record("id2", replace(PLAIN, name="other")))
        raise RuntimeError
    assert read_containers(database.read()) == []
    database.close()


def test_threads_write_one_after_another(tmp_path: Path) -> None:
    database = Database(tmp_path / "d.db")

    def insert(number: int) -> None:
        with database.write() as connection:
            insert_container(connection, record(f"id{number}", replace(PLAIN, name=f"n{number}")))

    threads = [threading.Thread(target=insert, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_containers(database.read())) == 16
    database.close()


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    with pytest.raises(Fault, match="install the newer release"):
        Database(path)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(Fault) as raised:
        Database(path)
    assert raised.value.code == "database-invalid" and str(path) in str(raised.value)
