"""Effects: the agent's HTTP: its state on a unix socket for the command line, /metrics on TCP as well.

The unix socket is bound here with mode 0660 and the group of the settings (uvicorn would make it 0666): who
may write to it may do all that the agent may. Readers take the View as it is and wait for nothing; rendering
happens in a thread, and so does what is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent import calls, metrics
from agent.http.bounds import Bounded
from agent.settings import Settings
from agent.view import CRASH_LOOP, View
from runtime.faults import Fault
from runtime.linux.apparmor import AppArmor
from runtime.observations import ObservedContainer, Phase
from runtime.paths import Paths

log = logging.getLogger(__name__)

BACKLOG = 64
#: accept(2): not the fault of who connects
LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
#: seconds between two words about connections that cannot be accepted
SPACING = 60.0
#: operations at once, and bytes of one request
CALLS, MOST = 32, 4 * 1024 * 1024


class Shown(Protocol):
    """What is served: the loop's agent."""

    @property
    def view(self) -> View: ...
    def scraped(self) -> None: ...
    def call(self, op: str, args: Mapping[str, Any]) -> Any:
        """In any thread. Raises Fault."""
        ...


async def serve(agent: Shown, paths: Paths, settings: Settings) -> None:
    """Until cancelled. Fault when an address cannot be bound."""
    loop, listeners = asyncio.get_running_loop(), [_unix(paths, settings.listen.group)]
    pool = ThreadPoolExecutor(CALLS, thread_name_prefix="call")
    try:
        if settings.listen.metrics:
            listeners.append(_tcp(settings.listen.metrics))
        config = uvicorn.Config(
            application(agent, pool),
            log_config=None,
            access_log=False,
            lifespan="off",
            http=Bounded,
            ws="none",
            date_header=False,
            backlog=BACKLOG,
        )
        loop.set_exception_handler(_Unaccepted())
        server = _Server(config)
        try:
            await server.serve(sockets=listeners)
        finally:
            server.should_exit = True
    finally:
        loop.set_exception_handler(None)
        for listener in listeners:
            listener.close()
        await asyncio.to_thread(pool.shutdown, cancel_futures=True)  # what was begun is ended, as steps are
        paths.agent_socket.unlink(missing_ok=True)


class _Unaccepted:
    """What asyncio tells of in its loop. Where no descriptor is left it tries to accept as often as `backlog`
    says, once a second, and would show a traceback for each: this says it once in a while."""

    def __init__(self) -> None:
        self._said = -SPACING

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "socket" not in context or not (isinstance(error, OSError) and error.errno in LACKS):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said >= SPACING:
            self._said = time.monotonic()
            log.error("cannot accept connections: %s; trying again every second", str(error.strerror).lower())


class _Server(uvicorn.Server):
    """Signals are the loop's to handle, and nothing is done while nobody asks: uvicorn's own loop wakes ten
    times a second, for the Date header and a limit of requests that we do not set."""

    async def main_loop(self) -> None:
        await asyncio.Event().wait()  # until the task is cancelled

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def application(agent: Shown, pool: ThreadPoolExecutor) -> Starlette:
    async def status(request: Request) -> Response:
        if _is_tcp(request):  # whoever may scrape need not know of commits and errors
            return Response(status_code=404)
        return _json(await asyncio.to_thread(status_document, agent.view))

    async def scrape(request: Request) -> Response:
        agent.scraped()
        text = await asyncio.to_thread(metrics.render, agent.view)
        return Response(text, media_type=metrics.CONTENT_TYPE)

    async def call(request: Request) -> Response:
        if _is_tcp(request):
            return Response(status_code=404)
        try:
            op, args = await _asked(request)
        except ValueError as error:
            return Response(f"cannot read request: {error}", status_code=400)
        loop = asyncio.get_running_loop()
        try:
            return _json({"result": await loop.run_in_executor(pool, agent.call, op, args)})
        except Fault as fault:
            return _json({"fault": calls.document(fault)})

    return Starlette(
        routes=[
            Route("/v1/status", status),
            Route("/v1/call", call, methods=["POST"]),
            Route("/metrics", scrape),
        ]
    )


def _is_tcp(request: Request) -> bool:
    _, port = request.scope["server"] or ("", None)  # ASGI: (path, None) for a unix socket
    return port is not None


async def _asked(request: Request) -> tuple[str, dict[str, Any]]:
    """The operation and its arguments. ValueError."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST:
            raise ValueError(f"more than {MOST} bytes")
    try:
        asked = json.loads(data)
        json.dumps(asked, ensure_ascii=False).encode()  # no half of a surrogate pair, which is no text
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    op, args = (asked.get("op"), asked.get("args", {})) if isinstance(asked, dict) else (None, None)
    if not isinstance(op, str) or not isinstance(args, dict):
        raise ValueError('write {"op": NAME, "args": {...}}')
    return op, args


def status_document(view: View) -> dict[str, Any]:
    """The JSON of /v1/status: state, sources, steps and what is blocked; times are seconds since the
    epoch.
    """
    scheduled = {item.name for item in view.jobs}  # `jobs` says how their runs ended
    return {
        "state": view.state,
        "version": view.version,
        "node": view.node,
        "pid": view.pid,
        "at": view.at,
        "started_at": view.started_at,
        "error": view.error,
        "sources": [asdict(source) for source in view.sources],
        "plan": [asdict(step) for step in view.plan],
        "in_flight": [asdict(step) for step in view.in_flight],
        "blocked": [asdict(item) for item in view.blocked],
        "orphans": [asdict(item) for item in view.orphans],
        "backups": [asdict(item) for item in view.backups],
        "jobs": [asdict(item) for item in view.jobs],
        "containers": {
            name: CRASH_LOOP if item.crash_loop else item.phase.value
            for name, item in view.observed.containers.items()
        },
        "unmanaged": sorted(name for name, item in view.observed.containers.items() if not item.source),
        "crash_loops": [
            {
                "name": name,
                "exit_code": item.exit_code,
                "oom_killed": item.oom_killed,
                "error": item.error,
                "restarts": item.restarts,
                "unhealthy": dict(item.restart_reasons).get("unhealthy", 0),
                "next_start_at": item.next_start_at,
                "log_tail": item.log_tail,
            }
            for name, item in sorted(view.observed.containers.items())
            if item.crash_loop
        ],
        "ended": [
            {
                "name": name,
                "exit_code": item.exit_code,
                "oom_killed": item.oom_killed,
                "error": item.error,
                "finished_at": item.finished_at,
            }
            for name, item in sorted(view.observed.containers.items())
            if item.source and name not in scheduled and _ended_badly(item)
        ],
        "apparmor": AppArmor().missing(),
        "loosened": {
            name: list(item.loosened)
            for name, item in sorted(view.observed.containers.items())
            if item.loosened
        },
    }


def _ended_badly(item: ObservedContainer) -> bool:
    """Nothing starts it again, and it did not end well."""
    return item.phase is Phase.EXITED and bool(item.exit_code or item.error)


def _json(document: dict[str, Any]) -> Response:
    return Response(json.dumps(document), media_type="application/json")


def _unix(paths: Paths, group: str) -> socket.socket:
    """Bound by way of its directory's descriptor, however long the path is (unix(7): 108 bytes). `group` may
    use it, and reach it in its directory, of which it can see nothing else."""
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        hint = "choose another listen.group in the settings"
        raise Fault("request-invalid", "listen for", group, "there is no such group", hint) from None
    paths.agent_socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    directory = os.open(paths.agent_socket.parent, os.O_PATH | os.O_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{paths.agent_socket.name}")
        os.chown(paths.agent_socket, -1, gid)
        os.chmod(paths.agent_socket, 0o660)
        os.chown(paths.run, -1, gid)
        os.chmod(paths.run, 0o710 if gid else 0o700)
    finally:
        os.umask(before)
        os.close(directory)
    listener.listen(BACKLOG)
    return listener


def _tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        code = "port-taken" if error.errno == errno.EADDRINUSE else "kernel-error"
        cause, hint = str(error.strerror).lower(), "choose another listen.metrics in the settings"
        raise Fault(code, "listen on", address, cause, hint) from error
    listener.listen(BACKLOG)
    return listener
