"""Values: what shims write on disk and what is said to them, in bytes that later releases still understand.

Every document carries `"v": 1`. A reader ignores keys that it does not know and takes a default for keys that
are missing, so a newer agent adopts the shims of an older one and the other way round; `v` grows only when an
old meaning changes. The golden bytes stand in tests/unit/test_messages.py. Times are seconds since the epoch.

Requests on shim.sock (SEQPACKET, one JSON object a packet, descriptors by SCM_RIGHTS), each answered by one
packet `{"v":1,"ok":true,...}` or `{"v":1,"ok":false,"error":text}`:

    ping | state                     -> "state": the record below
    stop   signal, timeout           -> answered when the container has ended and exit.json is written
    kill   signal                    -> sends the signal to the container's first process
    start                            -> ends a backoff: the next start is tried now, and counts begin anew
    adjust supervise                 -> keys of the supervise document to be changed in place
    resize rows, columns             -> of the container's terminal
    exec   process, tty   fds 0 1 2  -> "pid"; later an event packet {"v":1,"event":"exited","exit_code":n};
                          or console    meanwhile `signal` and number may be sent on the same connection
    attach close_stdin    fd  stdin  -> "tty"; an event packet `ended` when the container is gone for good

A request of more than BULKY bytes is in a file, whose descriptor is the last one of a packet that is no more
than {"v":1,"in_file":true}.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NamedTuple
else:
    from runtime.shim.tuples import NamedTuple

VERSION = 1

#: A file of a bundle that its shim holds locked (flock(2)), with its pid and start time.
LOCK = "shim.lock"

#: What a process that is to become a shim waits for (GROUND: cgroup and network namespace are there; it comes
#: before GO, if at all), and what its container's program waits for.
GROUND, GO, RUN = b"ground", b"go", b"run"
#: Bytes of any of them, at most.
MAX_WORD = 16
#: In a request to the zygote: the shim will have little to do (runtime.shim.keeper).
KEEP = b'"op":"keep"'
#: One packet on shim.sock, and a report of the zygote, are never larger (bytes).
MAX_PACKET = 200_000
#: A request of more bytes goes in a file, of MAX_FILE bytes at most.
BULKY, MAX_FILE = 100_000, 16 << 20
#: Results of probes that a state record keeps, and bytes of output kept of each.
HEALTH_LOG_ENTRIES = 5
HEALTH_LOG_BYTES = 4096
#: Where a state record has them, in the order of supervise.KINDS.
PROBE_LOGS = ("startup_log", "health_log", "readiness_log")

# ---------------------------------------------------------------- log index

#: offset u64, length u32, stream u8, flags u8, 2 spare bytes, time in ns u64; little endian
INDEX_RECORD = struct.Struct("<QIBBHQ")
STDOUT, STDERR = 1, 2
#: output was lost before this chunk: the disk was full
FLAG_DROPPED = 1
#: bytes that a killed shim had written without an index record; their time is when they were found
FLAG_RECOVERED = 2
#: a run ended before this chunk, which may have no bytes: lines that were begun by then have no end
FLAG_ENDED = 4


def index_record(offset: int, length: int, stream: int, flags: int, time_ns: int) -> bytes:
    return INDEX_RECORD.pack(offset, length, stream, flags, 0, time_ns)


# ---------------------------------------------------------------- packets

_encoder = json.JSONEncoder(separators=(",", ":"))


def encode(message: Mapping[str, Any]) -> bytes:
    """Compact JSON with `v` first; keys stay in the order given."""
    return _encoder.encode({"v": VERSION, **message}).encode()


def decode(data: bytes) -> dict[str, Any]:
    """Raises ValueError when the bytes are no JSON object or speak of a later version."""
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("cannot read message: not an object")
    if int(message.get("v", VERSION)) > VERSION:
        raise ValueError(f"cannot read message: version {message['v']} is newer than {VERSION}")
    return message


# ---------------------------------------------------------------- state record

_NONE: Mapping[str, int] = {}  # which nobody changes


class ProbeResult(NamedTuple):
    """`exit_code` 0 is a success; -1 means that the probe did not end in time or could not be run."""

    started_at: float
    finished_at: float
    exit_code: int
    output: str = ""


class State(NamedTuple):
    """A container as its shim last wrote it (state.json), or as it ended (exit.json).

    `phase` and `health` are words of runtime.observations.Phase and Health. `pid` is 0 while nothing
    runs; `exit_code`, `oom_killed` and `finished_at` tell of the last run that ended; `restarts` counts
    since the container's creation, `restart_reasons` the same by supervise.REASONS; `next_start_at` is 0
    outside backoff. The start times are in clock ticks since boot: a process is the one meant only when
    pid and start time agree. `ready` is what the readiness probe says; true where there is none. `streak` and
    `attempts` are those of supervise.RestartMemory.
    """

    id: str = ""
    name: str = ""
    shim_pid: int = 0
    shim_start: int = 0
    pid: int = 0
    pid_start: int = 0
    phase: str = "created"
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int | None = None
    oom_killed: bool = False
    restarts: int = 0
    next_start_at: float = 0.0
    health: str = "none"
    error: str = ""
    health_log: tuple[ProbeResult, ...] = ()
    log_dropped: int = 0  # bytes of output that are lost
    bundle: str = ""
    cgroup: str = ""
    restart_reasons: Mapping[str, int] = _NONE
    ready: bool = True
    startup_log: tuple[ProbeResult, ...] = ()
    readiness_log: tuple[ProbeResult, ...] = ()
    streak: int = 0
    attempts: int = 0


def state_document(state: State) -> dict[str, Any]:
    document = state._asdict()
    document["restart_reasons"] = dict(state.restart_reasons)
    for name in PROBE_LOGS:
        document[name] = [result._asdict() for result in getattr(state, name)]
    return document


def state_from(document: Mapping[str, Any]) -> State:
    """Unknown keys are ignored, missing ones keep their default."""
    known = {key: value for key, value in document.items() if key in _STATE_FIELDS}
    for name in PROBE_LOGS:
        known[name] = tuple(
            ProbeResult(**{k: v for k, v in entry.items() if k in _RESULT_FIELDS})
            for entry in known.get(name) or ()
        )
    return State(**known)


_STATE_FIELDS, _RESULT_FIELDS = frozenset(State._fields), frozenset(ProbeResult._fields)


# ---------------------------------------------------------------- supervise.json

#: Keys of the probes, in the order of supervise.KINDS. One that `adjust` leaves out is not there any more.
PROBES = ("startup", "probe", "readiness")


def supervise_document(
    *,
    id: str,
    name: str,
    cgroup: str,
    restart: Mapping[str, Any],
    probe: Mapping[str, Any] | None,
    stop_signal: str,
    stop_timeout: float,
    log_max_size: int,
    log_max_files: int,
    tty: bool,
    stdin_open: bool,
    restarts: Mapping[str, int],
    events_socket: str,
    oom_score_adj: int = 0,
    startup: Mapping[str, Any] | None = None,
    readiness: Mapping[str, Any] | None = None,
    streak: int = 0,
    attempts: int = 0,
    events_log: str = "",
    log: Mapping[str, Any] | None = None,
    brief: bool = False,
) -> dict[str, Any]:
    """What a shim must know besides config.json. `restart` and the probes are the fields of RestartRequest
    and ProbeRequest, `probe` is that of liveness; `restarts` counts by reason what went before, `streak` and
    `attempts` are of a run that goes on; `cgroup` is relative to each hierarchy's root; `events_log` is a
    directory (runtime.shim.chronicle); `log` is of a logger other than our files (runtime.loggers); one
    that is `brief` goes with its end, so that no record of that must outlive a power cut; sizes are bytes,
    times seconds. Beside these there are `joins`: the owners' directories under run of namespaces that are
    others', by kind (runtime.shim.owners)."""
    document = {
        "v": VERSION,
        "id": id,
        "name": name,
        "cgroup": cgroup,
        "restart": dict(restart),
        "probe": None if probe is None else dict(probe),
        "stop_signal": stop_signal,
        "stop_timeout": stop_timeout,
        "log_max_size": log_max_size,
        "log_max_files": log_max_files,
        "tty": tty,
        "stdin_open": stdin_open,
        "restarts": sum(restarts.values()),
        "restart_reasons": dict(restarts),
        "events_socket": events_socket,
        "oom_score_adj": oom_score_adj,
    }
    others = {"startup": startup, "readiness": readiness, "log": log}
    document.update({key: dict(given) for key, given in others.items() if given is not None})
    counts = {"streak": streak, "attempts": attempts}
    document.update({key: count for key, count in counts.items() if count})
    document.update({"events_log": events_log} if events_log else {})
    document.update({"brief": True} if brief else {})
    return document


#: What `adjust` may change in a running shim; other keys are ignored.
ADJUSTABLE = (
    "restart",
    *PROBES,
    "stop_signal",
    "stop_timeout",
    "log_max_size",
    "log_max_files",
    "name",
    "oom_score_adj",
)
