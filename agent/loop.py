"""Effects: the agent. It waits for a reason to look, looks, starts what is ready, and waits again.

Reasons: a source changed, a step ended, a shim said something or died, the kernel said that something of our
networks changed (then only they are looked at), a blocked step may be tried again, or nothing happened for a
while (other drift tells nobody). What is in force comes from disk first, so that after a
reboot all comes back without its sources. Ending the agent leaves every container running.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from agent import calls, notify, picture, process, secrets
from agent.callers import Callers
from agent.clock import SystemClock
from agent.converge import Engine, Event, Round
from agent.deaths import Deaths
from agent.desired import Resolved, Surroundings
from agent.feeds import Feed, contexts
from agent.journal import Journal
from agent.journal import Revision as RevisionEntry
from agent.lock import hold
from agent.planner.guard import approved, held
from agent.planner.model import NOTES
from agent.planner.updates import NONE, Notice
from agent.rollouts import Rollouts
from agent.settings import Settings
from agent.sources.revision import Failure, Revision, Touched, Yield
from agent.verdict import judge
from agent.view import Counters, View
from agent.webhook import Webhook
from runtime.faults import Fault
from runtime.interface import Runtime
from runtime.local import LocalRuntime
from runtime.observations import Observed
from runtime.paths import Paths
from specs.desired import Desired

log = logging.getLogger("stead")

#: seconds between two looks when nothing happens: at least PERIOD, and RATIO times what a look costs, so that
#: an idle agent stays under half a percent of a core
PERIOD, PERIOD_MAX, RATIO = 10.0, 60.0, 400.0
#: the reason for a look at networks alone
NETWORK = "network"
#: how many times the length of the last round (for NETWORK: of the last such look) to wait until the next and
#: at most how many seconds, by what woke us: people wait for sources
SPACING = {"source": 0.0, "call": 1.0, "step": 1.0, "shim": 10.0, "files": 10.0, NETWORK: 10.0}
SPACING_MAX = {"source": 0.0, "call": 0.1, "step": 0.1, "shim": 1.0, "files": 1.0, NETWORK: 0.5}
#: seconds between two looks while steps run and no other step waits for them
LAST_STEPS = 0.25
#: seconds between two samples, and how long after the last scrape they are still taken
SAMPLE_EVERY, SAMPLE_FOR = 10.0, 900.0
#: seconds between two looks at files of secrets that no source watches
SECRETS_EVERY = 2.0
#: and between two looks at secrets that nothing needs
SWEEP_EVERY = 3600.0
#: seconds that a round which failed as a whole is waited for
RETRY = 2.0


class Agent:
    """`view` may be read from any thread at any time."""

    def __init__(self, settings: Settings, paths: Paths, runtime: Runtime) -> None:
        self.settings, self.paths, self.runtime = settings, paths, runtime
        self._clock = SystemClock()
        self._view = View(
            started_at=self._clock.time(), pid=os.getpid(), version=process.release(), node=settings.node_name
        )
        around = Surroundings({}, settings.node_name, settings.node.labels, keys=settings.keys(paths))
        self._feeds = [Feed(source, paths, around) for source in settings.source]
        self._reasons: set[str] = set()
        self._scraped = 0.0
        self._sampled = 0.0
        self._was_state = self._trouble = ""
        self._cost = self._ended = 0.0
        self._look_cost = self._looked = 0.0
        self._due = 0.0  # for a round, when nothing happens until then
        self._observed: Observed | None = None  # by the last round
        self._webhook: Webhook | None = None
        self._orders = NONE  # that were obeyed
        self._callers = Callers()
        self._woken_at = 0.0  # when the first of the reasons came

    # ------------------------------------------------------------ for those who show it

    @property
    def view(self) -> View:
        return self._view

    def scraped(self) -> None:
        self._scraped = time.monotonic()

    def call(self, op: str, args: Mapping[str, Any]) -> Any:
        """What a person asks for, in a thread of its own; then there is reason to look. Raises Fault."""
        assert isinstance(self.runtime, LocalRuntime), "only a real machine is asked"
        try:
            with self._callers:
                return calls.perform(self.runtime, op, args)
        finally:
            self._loop.call_soon_threadsafe(self._because, "call")

    # ------------------------------------------------------------ life

    async def run(self) -> int:
        """Until SIGTERM or SIGINT. Raises Fault locked when another process holds the root."""
        with ExitStack() as stack:
            stack.enter_context(hold(self.paths, "agent"))
            self._loop = asyncio.get_running_loop()
            self._wake, self._stop = asyncio.Event(), asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._end)
                stack.callback(self._loop.remove_signal_handler, number)
            self._journal = Journal(self.paths.journal)
            stack.callback(self._journal.close)
            self._rollouts = Rollouts(self.paths.rollouts)
            stack.callback(self._rollouts.close)
            if (hook := self.settings.hook()) is not None:
                self._webhook = Webhook(hook, self.settings.node_name)
                stack.callback(self._webhook.close)
            self._engine = Engine(
                self.runtime,
                self._journal,
                rollouts=self._rollouts,
                limits=self.settings.planner_limits(),
                on_wake=self._step_ended,
                on_event=_log_event,
                on_notice=self._notice,
            )
            self._engine.backing_up = self._engine.by_hand = True
            self._engine.keep_schedules({feed.name for feed in self._feeds})
            stack.callback(self._listen())
            self._deaths = Deaths(self._loop, partial(self._because, "shim"))
            stack.callback(self._deaths.close)
            stack.callback(self.runtime.watch_networks(self._network_changed))
            await self._restore()
            await self._live()
        return 0

    async def _live(self) -> None:
        tasks = [asyncio.create_task(self._follow(feed)) for feed in self._feeds]
        tasks.append(asyncio.create_task(self._sample()))
        tasks.append(asyncio.create_task(self._look_at_secrets()))
        tasks += self._servers()
        for task in tasks:
            task.add_done_callback(self._ended_badly)
        rounds = asyncio.create_task(self._rounds())
        try:
            await asyncio.wait([rounds])
        finally:
            self._end()
            notify.notify("STOPPING=1", "STATUS=waiting for steps that have begun")
            self._view = replace(self._view, state="stopping")
            for task in tasks:
                task.cancel()
            for feed in self._feeds:
                feed.source.abort()
                feed.judged(0.0, converged=False)
            await asyncio.to_thread(self.runtime.interrupt)
            results = await asyncio.gather(rounds, *tasks, return_exceptions=True)
            await asyncio.to_thread(self._engine.close)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def _ended_badly(self, task: asyncio.Task[Any]) -> None:
        """A part of the agent that fails ends the agent; systemd starts it anew, the containers live on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("agent ends: %s", error if isinstance(error, Fault) else repr(error))
            self._end()

    def _servers(self) -> list[asyncio.Task[Any]]:
        try:
            module = importlib.import_module("agent.http.server")
        except ModuleNotFoundError as error:
            if error.name not in ("agent.http.server", "agent.http"):
                raise
            return []
        return [asyncio.create_task(module.serve(self, self.paths, self.settings))]

    def _step_ended(self) -> None:
        """Called in any thread."""
        self._loop.call_soon_threadsafe(self._because, "step")

    def _network_changed(self) -> None:
        """Called in any thread."""
        self._loop.call_soon_threadsafe(self._because, NETWORK)

    def _end(self) -> None:
        self._stop.set()
        self._wake.set()

    def _because(self, reason: str) -> None:
        if not self._reasons:
            self._woken_at = time.monotonic()
        self._reasons.add(reason)
        self._wake.set()

    # ------------------------------------------------------------ sources

    async def _restore(self) -> None:
        """Put the last good revisions in force before any source was looked at."""
        for feed in self._feeds:
            revision = await asyncio.to_thread(feed.shelf.get)
            if revision is not None:
                await self._take(feed, revision, restored=True)

    async def _follow(self, feed: Feed) -> None:
        async for found in feed.source.revisions(self._stop):
            while not await self._took(feed, found) and not self._stop.is_set():
                await asyncio.sleep(RETRY)

    async def _took(self, feed: Feed, found: Yield, *, pinned: bool = False, again: bool = False) -> bool:
        """False when it cannot be taken now, as on a full disk: the source will not yield it again."""
        try:
            await self._take(feed, found, pinned=pinned, again=again)
        except (Fault, OSError) as error:
            text = f"cannot take revision: {error}".lower() if isinstance(error, OSError) else str(error)
            if text != feed.view.fetch_error:
                log.error("source %s: %s", feed.name, text)
            self._show(feed, fetch_error=text, **({} if pinned else self._seen(found)))
            return False
        return True

    async def _look_at_secrets(self) -> None:
        """Files of secrets and configs that no source watches: a change is taken as a revision is. What is
        pinned keeps those that it had."""
        swept = -SWEEP_EVERY
        while True:
            await asyncio.sleep(SECRETS_EVERY)
            if self._observed is not None and time.monotonic() - swept > SWEEP_EVERY:
                swept = time.monotonic()
                shelves = (feed.shelf.digests() for feed in self._feeds)  # read in that thread
                kept = chain(shelves, [self._engine.kept_secrets()])
                await asyncio.to_thread(secrets.sweep, self.paths, kept, self._observed, self._clock.time())
            for feed in self._feeds:
                if feed.name in self._engine.orders.sources or not await asyncio.to_thread(feed.is_other):
                    continue
                if feed.taken is not None and not await self._took(feed, feed.taken, again=True):
                    feed.secrets = None

    async def _take(
        self,
        feed: Feed,
        found: Yield,
        *,
        restored: bool = False,
        pinned: bool = False,
        again: bool = False,
    ) -> None:
        """`restored`, `pinned`: it was good before; `again`: it is in force, its secrets may be others."""
        async with feed.lock:
            await self._taken(feed, found, restored, pinned, again)

    async def _taken(self, feed: Feed, found: Yield, restored: bool, pinned: bool, again: bool) -> None:
        now = self._clock.time()
        if isinstance(found, Touched):
            self._engine.touched()
            self._because("files")
            return
        if isinstance(found, Failure):
            self._show(feed, fetch_error=found.text, seen_at=now)
            log.warning("source %s: %s", feed.name, found.text)
            return
        seen = {} if pinned else self._seen(found)  # shown with what became of it, never before
        if feed.has(found) and not again:
            self._show(feed, **seen, errors=(), fetch_error="", held="")  # what was refused is gone again
            feed.waiting = None
            return
        resolved = await asyncio.to_thread(feed.resolve, found, kept=restored or pinned)
        if resolved.desired is None:
            await self._refuse(feed, resolved, now, seen)
            return
        if again and resolved.desired == feed.desired:
            self._show(feed, **seen, errors=(), fetch_error="")
            return
        if not (restored or pinned or again) and (reason := await self._held(feed, found, resolved.desired)):
            await self._hold(feed, found, reason, seen)
            return
        found = resolved.revision
        previous = await asyncio.to_thread(feed.previous) if restored else None
        if not restored:  # what is in force must be found again after a reboot: on disk first
            if not pinned and not again:
                feed.secrets = None
                await asyncio.to_thread(feed.source.accept, found)
                await asyncio.to_thread(self._rollouts.came_in_force, feed.name, found.id)
            await asyncio.to_thread(feed.shelf.put, found, anew=not pinned and not again)
        if not pinned:
            feed.waiting = None
            seen["held"] = ""
        feed.desired, feed.taken = resolved.desired, found
        self._show(
            feed,
            **seen,
            revision=found.id,
            revision_note=found.note,
            revision_at=now,
            errors=(),
            fetch_error="",
            containers=len(resolved.desired.containers),
        )
        self._view = replace(self._view, state="progressing")  # until a round has looked at it
        self._engine.want(resolved.desired, found.id, previous=previous)
        feed.source.watch(contexts(resolved.desired))
        if all(item.desired is not None for item in self._feeds):
            self._engine.collecting = self.settings.collecting()  # now it is known what is needed
        self._because("source")
        log.info("source %s: revision %s in force: %s", feed.name, found.id[:12], found.note)
        self._engine.tally.revision(feed.name, "accepted")
        entry = RevisionEntry(now, feed.name, found.id, found.note, "accepted")
        await asyncio.to_thread(self._journal.revision, entry)

    async def _held(self, feed: Feed, found: Revision, desired: Desired) -> str:
        """Why a good revision is not put in force; empty when it may be."""
        orders = await asyncio.to_thread(self._rollouts.orders)
        if (pin := orders.sources.get(feed.name)) is not None and pin.revision != found.id:
            why = f": {pin.reason}" if pin.reason else ""
            kept = f"revision {pin.revision[:12]} is kept in force by {pin.who}{why}"
            return f"{kept}; it waits for: stead release {feed.name}"
        if approved(orders.approved, feed.name, found.id):
            return ""
        observed = self._observed
        if observed is None:
            observed = await asyncio.to_thread(self.runtime.observe)
        return held(self.settings.guarding(), found.id, desired, observed, empty=not found.files)

    def _counters(self) -> Counters:
        counters = self._engine.tally.counters()
        return counters if self._webhook is None else replace(counters, webhooks=dict(self._webhook.counts))

    async def _hold(self, feed: Feed, found: Revision, reason: str, seen: dict[str, Any]) -> None:
        """What is in force stays; `found` is looked at again when a person ordered something."""
        feed.waiting = found
        if reason != feed.view.held:
            log.warning("source %s: revision %s is held back: %s", feed.name, found.id[:12], reason)
            notice = Notice("held", feed.name, feed.name, found.id, feed.view.revision, reason)
            self._engine.tally.notice(notice)
            self._notice(notice)
        entry = RevisionEntry(self._clock.time(), feed.name, found.id, found.note, "held", (reason,))
        await asyncio.to_thread(self._journal.revision, entry)  # first: `stead approve` looks there
        self._show(feed, **seen, errors=(), fetch_error="", held=reason)

    def _notice(self, notice: Notice) -> None:
        """Called in any thread."""
        if self._webhook is not None:
            self._webhook.tell(notice, self._clock.time())

    async def _obey(self) -> None:
        """After orders of people: a pinned revision comes in force, one that waited may."""
        orders = self._engine.orders
        if orders is self._orders:
            return
        self._orders = orders
        for feed in self._feeds:
            pin = orders.sources.get(feed.name)
            if pin is not None and feed.view.revision != pin.revision:
                kept = await asyncio.to_thread(feed.shelf.find, pin.revision)
                if kept is not None:
                    feed.waiting = feed.waiting or await asyncio.to_thread(feed.shelf.get)
                    await self._took(feed, kept, pinned=True)
            if feed.waiting is not None and not feed.has(feed.waiting):
                await self._took(feed, feed.waiting)

    async def _refuse(self, feed: Feed, resolved: Resolved, now: float, seen: dict[str, Any]) -> None:
        """A bad revision changes nothing; the last good one stays in force."""
        revision = resolved.revision
        self._show(feed, **seen, errors=resolved.problems, fetch_error="", held="")
        feed.waiting = None
        for problem in resolved.problems:
            log.error("source %s: %s", feed.name, problem)
        self._engine.tally.revision(feed.name, "refused")
        entry = RevisionEntry(now, feed.name, revision.id, revision.note, "refused", resolved.problems)
        await asyncio.to_thread(self._journal.revision, entry)

    def _seen(self, found: Yield) -> dict[str, Any]:
        return {"seen": found.id, "seen_at": self._clock.time()} if isinstance(found, Revision) else {}

    def _show(self, feed: Feed, **changes: Any) -> None:
        feed.view = replace(feed.view, **changes)
        views = tuple(item.view for item in self._feeds)
        self._view = replace(self._view, sources=views, counters=self._engine.tally.counters())

    # ------------------------------------------------------------ rounds

    async def _rounds(self) -> None:
        watchdog = notify.watchdog_interval()
        ready = False
        pause = 0.0
        while not self._stop.is_set():
            await self._until(pause, watchdog)
            await self._space()
            if self._stop.is_set():
                return
            if self._observed is not None and self._only_networks():
                await self._look(self._observed)
                pause = self._due - time.monotonic()
                continue
            self._wake.clear()
            self._reasons.clear()
            try:
                done = await asyncio.to_thread(self._engine.round)
            except (Fault, OSError) as error:
                log.error("%s", error)
                self._engine.tally.failed_round()
                self._view = replace(self._view, error=str(error), counters=self._engine.tally.counters())
                pause = RETRY
            else:
                self._cost, self._observed = done.seconds, done.observed
                self._publish(done)
                await self._obey()
                pause = self._next(done)
            self._ended = time.monotonic()
            self._due = self._ended + pause
            if not ready:
                ready = True
                process.settle()
                notify.notify("READY=1")
            notify.notify("WATCHDOG=1", f"STATUS={self._status()}")

    def _only_networks(self) -> bool:
        """Whether there is reason to look at networks, and it is not yet time for all the rest."""
        now = time.monotonic()
        others = self._reasons - {NETWORK}
        return (
            NETWORK in self._reasons
            and now < self._due
            and all(self._ready_at(reason) > now for reason in others)
        )

    async def _look(self, last: Observed) -> None:
        """At networks alone; what it begins wakes the next round when it ends."""
        self._reasons.discard(NETWORK)
        if not self._reasons:
            self._wake.clear()
        try:
            done = await asyncio.to_thread(self._engine.mend_networks, last)
        except (Fault, OSError) as error:
            log.error("%s", error)
        else:
            self._look_cost = done.seconds
            if done.plan.wake_at is not None:  # a repair that is paced
                left = done.plan.wake_at - self._clock.monotonic()
                self._due = min(self._due, time.monotonic() + max(0.0, left))
            self._view = picture.with_flights(self._view, self._engine.in_flight())
        self._looked = time.monotonic()

    async def _until(self, pause: float, watchdog: float) -> None:
        """Until there is a reason to look, at most `pause` seconds; the watchdog is fed meanwhile."""
        deadline = time.monotonic() + pause
        while not self._wake.is_set() and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self._wake.wait(), min(left, watchdog) if watchdog else left)
            except TimeoutError:
                notify.notify("WATCHDOG=1")

    def _next(self, done: Round) -> float:
        """Seconds until the next look when nothing happens."""
        period = min(PERIOD_MAX, max(PERIOD, RATIO * done.seconds))
        if done.plan.wake_at is not None:
            period = min(period, done.plan.wake_at - self._clock.monotonic())
        return max(0.0, period)

    async def _space(self) -> None:
        """Leave the machine to the steps and containers for a moment, unless a source changed."""
        while self._reasons and not self._stop.is_set():
            left = min(map(self._ready_at, self._reasons)) - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, 0.02))

    def _ready_at(self, reason: str) -> float:
        """When to look because of it, by time.monotonic."""
        if reason == NETWORK:
            return self._looked + min(SPACING[reason] * self._look_cost, SPACING_MAX[reason])
        delay = min(SPACING[reason] * self._cost, SPACING_MAX[reason])
        if self._reasons <= {"step", NETWORK} and not self._view.plan and self._engine.busy():
            delay = LAST_STEPS  # nothing waits for the steps that still run
        return self._callers.put_off(reason, self._ended + delay, self._woken_at)

    def _publish(self, done: Round) -> None:
        now = self._clock.time()
        containers = done.observed.containers.values()
        pids = {done.observed.names_pid, *(item.shim_pid for item in containers)}
        self._deaths.watch(pids - {0})
        for feed in self._feeds:
            if feed.desired is not None:
                verdict = None if feed.view.errors else judge(feed.desired, done, {}, now)
                well = verdict is not None and not verdict.pending and not verdict.failures
                feed.judged(now, converged=well)
        self._view = picture.with_round(
            replace(
                self._view,
                sources=tuple(feed.view for feed in self._feeds),
                counters=self._counters(),
                orphans=done.orphans,
                backups=done.backups,
                jobs=done.jobs,
            ),
            at=now,
            monotonic=self._clock.monotonic(),
            observed=done.observed,
            plan=done.plan,
            flights=self._engine.in_flight(),
        )
        if (trouble := self._journal.trouble) != self._trouble:
            self._trouble = trouble
            log.error("%s", trouble) if trouble else log.info("the journal is written again")
        if trouble:
            self._view = replace(self._view, error=trouble)
        if self._engine.outdated:
            self._view = replace(self._view, state="progressing")  # something else is wanted since
        if not all(feed.view.seen_at for feed in self._feeds):
            self._view = replace(self._view, state="starting")  # nobody knows yet what is wanted
        if self._view.state != self._was_state:
            self._was_state = self._view.state
            log.info("%s", self._status())

    def _status(self) -> str:
        view = self._view
        text = f"{view.state}: {len(view.observed.containers)} containers"
        if blocked := [item for item in view.blocked if item.code not in NOTES]:
            text += f", {len(blocked)} blocked ({blocked[0].reason[:80]})"
        if waiting := [source.name for source in view.sources if source.held]:
            text += f", revision of {', '.join(waiting)} held back"
        if refused := [source.name for source in view.sources if source.errors]:
            text += f", bad revision of {', '.join(refused)}"
        return text

    # ------------------------------------------------------------ shims, samples

    def _listen(self) -> Any:
        """Take the shims' datagrams: each is a reason to look. Returns what ends it."""
        path = self.paths.events_socket
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
        try:
            sock.bind(f"/proc/self/fd/{directory}/{path.name}")  # however long the path is
        finally:
            os.close(directory)
        path.chmod(0o600)
        self._loop.add_reader(sock, self._heard, sock)

        def end() -> None:
            self._loop.remove_reader(sock)
            sock.close()
            path.unlink(missing_ok=True)

        return end

    def _heard(self, sock: socket.socket) -> None:
        try:
            for _ in range(1000):
                sock.recv(65536)
        except OSError:
            pass  # read all there is
        self._because("shim")

    async def _sample(self) -> None:
        """In the background, so that no scrape waits for a container."""
        while not self._stop.is_set():
            wanted = self._scraped and time.monotonic() - self._scraped < SAMPLE_FOR
            if wanted and time.monotonic() - self._sampled >= SAMPLE_EVERY:
                self._sampled = time.monotonic()
                try:
                    samples = await asyncio.to_thread(self.runtime.sample)
                except (Fault, OSError) as error:
                    log.warning("cannot sample containers: %s", error)
                else:
                    self._view = replace(self._view, samples=samples, sampled_at=self._clock.time())
            elif not wanted and self._view.samples:
                self._view = replace(self._view, samples=())  # none is better than an old one
            await asyncio.sleep(1.0)


def _log_event(event: Event) -> None:
    if event.kind == "failed":
        log.warning("%s", event.text)
    elif event.kind == "begin":
        log.info("%s", event.text)


async def run_agent(settings: Settings, paths: Paths, runtime: Runtime) -> int:
    """Run the agent until it is told to end. Returns the exit code. Raises Fault locked."""
    return await Agent(settings, paths, runtime).run()
