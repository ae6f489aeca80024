"""The bytes that shims of this release write. A later release must still read them: never change what stands
here, add to it."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.shim import messages

STATE = (
    b'{"v":1,"id":"0123456789abcdef","name":"shop/web","shim_pid":100,"shim_start":5000,"pid":101,'
    b'"pid_start":5001,"phase":"backoff","started_at":1700000000.5,"finished_at":1700000001.25,"exit_code":137,'
    b'"oom_killed":true,"restarts":3,"next_start_at":1700000002.0,"health":"starting","error":"no such file",'
    b'"health_log":[{"started_at":1.5,"finished_at":2.5,"exit_code":1,"output":"refused"}],"log_dropped":7,'
    b'"bundle":"/var/lib/stead/containers/0123456789abcdef","cgroup":"stead.slice/0123456789abcdef"}'
)

SUPERVISE = (
    b'{"v":1,"id":"a","name":"shop/web","cgroup":"stead.slice/a",'
    b'"restart":{"policy":"on-failure","max_retries":3,"initial":0.1,"max":60.0,"reset_after":10.0},'
    b'"probe":null,"stop_signal":"SIGTERM","stop_timeout":10.0,"log_max_size":10485760,"log_max_files":3,'
    b'"tty":false,"stdin_open":false,"restarts":2,"events_socket":"/run/stead/events.sock"}'
)

#: The same, written since restarts are counted by reason.
COUNTED_STATE = STATE[:-1] + b',"restart_reasons":{"oom":2,"unhealthy":1}}'
#: The same, written since there are probes of startup and readiness.
READY_STATE = (
    COUNTED_STATE[:-1] + b',"ready":false,"startup_log":[{"started_at":0.5,"finished_at":1.0,"exit_code":0,'
    b'"output":""}],"readiness_log":[{"started_at":3.5,"finished_at":4.5,"exit_code":-1,"output":"late"}],'
    b'"streak":2,"attempts":4}'
)
COUNTED_SUPERVISE = SUPERVISE.replace(
    b'"restarts":2,', b'"restarts":2,"restart_reasons":{"oom":1,"signal":1},'
)
#: The same, written since a shim knows who is to be killed first.
SCORED_SUPERVISE = COUNTED_SUPERVISE[:-1] + b',"oom_score_adj":0}'


def state(**reasons: int) -> messages.State:
    return probed({}, **reasons)


#: What is said of a container with all kinds of probes.
PROBED = {
    "ready": False,
    "startup_log": (messages.ProbeResult(0.5, 1.0, 0),),
    "readiness_log": (messages.ProbeResult(3.5, 4.5, -1, "late"),),
    "streak": 2,
    "attempts": 4,
}


def probed(more: dict[str, Any], **reasons: int) -> messages.State:
    return messages.State(
        id="0123456789abcdef",
        name="shop/web",
        shim_pid=100,
        shim_start=5000,
        pid=101,
        pid_start=5001,
        phase="backoff",
        started_at=1700000000.5,
        finished_at=1700000001.25,
        exit_code=137,
        oom_killed=True,
        restarts=3,
        next_start_at=1700000002.0,
        health="starting",
        error="no such file",
        health_log=(messages.ProbeResult(1.5, 2.5, 1, "refused"),),
        log_dropped=7,
        bundle="/var/lib/stead/containers/0123456789abcdef",
        cgroup="stead.slice/0123456789abcdef",
        restart_reasons=reasons,
        **more,
    )


def test_a_state_record_has_these_bytes() -> None:
    written = messages.encode(messages.state_document(probed(PROBED, oom=2, unhealthy=1)))
    assert written == READY_STATE


def test_state_records_of_this_and_older_releases_can_be_read() -> None:
    assert messages.state_from(messages.decode(READY_STATE)) == probed(PROBED, oom=2, unhealthy=1)
    assert messages.state_from(messages.decode(COUNTED_STATE)) == state(oom=2, unhealthy=1)
    assert messages.state_from(messages.decode(STATE)) == state()


def test_unknown_keys_are_ignored_and_missing_ones_have_a_default() -> None:
    document = {"v": 1, "phase": "running", "colour": "red", "health_log": [{"exit_code": 0, "mood": "good",
                "started_at": 1.0, "finished_at": 2.0}]}  # fmt: skip
    read = messages.state_from(document)
    assert read == messages.State(phase="running", health_log=(messages.ProbeResult(1.0, 2.0, 0),))


def test_a_message_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2 is newer"):
        messages.decode(b'{"v":2,"op":"stop"}')


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{", b"\xff"])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        messages.decode(data)


def test_a_supervise_document_has_these_bytes() -> None:
    document = messages.supervise_document(
        id="a",
        name="shop/web",
        cgroup="stead.slice/a",
        restart={"policy": "on-failure", "max_retries": 3, "initial": 0.1, "max": 60.0, "reset_after": 10.0},
        probe=None,
        stop_signal="SIGTERM",
        stop_timeout=10.0,
        log_max_size=10485760,
        log_max_files=3,
        tty=False,
        stdin_open=False,
        restarts={"oom": 1, "signal": 1},
        events_socket="/run/stead/events.sock",
    )
    assert messages.encode(document) == SCORED_SUPERVISE


#: What is there only where it is asked for, written since there are such things.
MORE_SUPERVISE = (
    b',"startup":{"tcp":":1"},"readiness":{"tcp":":2","headers":[["A","b"]]},"log":{"driver":"none"},'
    b'"streak":2,"attempts":3}'
)


def test_what_few_containers_have_is_said_of_those_only() -> None:
    plain: dict[str, Any] = {
        "id": "a", "name": "n", "cgroup": "c", "restart": {}, "probe": None, "stop_signal": "",
        "stop_timeout": 1.0, "log_max_size": 1, "log_max_files": 1, "tty": False, "stdin_open": False,
        "restarts": {}, "events_socket": "",
    }  # fmt: skip
    written = messages.encode(messages.supervise_document(**plain))
    more = messages.supervise_document(
        **plain,
        startup={"tcp": ":1"},
        readiness={"tcp": ":2", "headers": (("A", "b"),)},
        streak=2,
        attempts=3,
        log={"driver": "none"},
    )
    assert messages.encode(more) == written[:-1] + MORE_SUPERVISE
    told = messages.supervise_document(**plain, events_log="/root/events")
    assert messages.encode(told) == written[:-1] + b',"events_log":"/root/events"}'
    gone = messages.supervise_document(**plain, brief=True)
    assert messages.encode(gone) == written[:-1] + b',"brief":true}'


def test_an_index_record_has_these_bytes() -> None:
    record = messages.index_record(0x0102030405, 0x0A0B0C0D, messages.STDERR, messages.FLAG_DROPPED, 1)
    assert record == bytes.fromhex("05040302010000000d0c0b0a020100000100000000000000")
    assert len(record) == messages.INDEX_RECORD.size == 24


def test_requests_have_these_bytes() -> None:
    assert messages.encode({"op": "stop", "signal": "SIGTERM", "timeout": 10.0}) == (
        b'{"v":1,"op":"stop","signal":"SIGTERM","timeout":10.0}'
    )
    assert messages.encode({"op": "spawn", "bundle": "/b", "live": "/l"}) == (
        b'{"v":1,"op":"spawn","bundle":"/b","live":"/l"}'
    )
