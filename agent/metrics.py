"""Decisions: a View as Prometheus metrics. Every series comes from the View: what is gone from it is gone
here.

Per-container names, labels and units are cAdvisor's own, so that existing dashboards work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.planner.runs import RESULTS
from agent.view import CRASH_LOOP, View
from runtime.observations import ObservedContainer, Phase
from runtime.shim.supervise import REASONS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: name without _total -> (field of Sample, help)
_COUNTERS = {
    "container_cpu_usage_seconds": ("cpu_seconds", "CPU time consumed."),
    "container_cpu_user_seconds": ("cpu_user_seconds", "CPU time consumed in user mode."),
    "container_cpu_system_seconds": ("cpu_system_seconds", "CPU time consumed in the kernel."),
    "container_cpu_cfs_throttled_seconds": (
        "cpu_throttled_seconds",
        "Time in which the CPU limit held it back.",
    ),
    "container_oom_events": ("oom_events", "Processes killed because memory ran out."),
    "container_fs_reads_bytes": ("io_read_bytes", "Bytes read from block devices."),
    "container_fs_writes_bytes": ("io_write_bytes", "Bytes written to block devices."),
    "container_fs_reads": ("io_reads", "Reads from block devices."),
    "container_fs_writes": ("io_writes", "Writes to block devices."),
    "container_network_receive_bytes": ("rx_bytes", "Bytes received."),
    "container_network_transmit_bytes": ("tx_bytes", "Bytes sent."),
    "container_network_receive_packets": ("rx_packets", "Packets received."),
    "container_network_transmit_packets": ("tx_packets", "Packets sent."),
    "container_network_receive_errors": ("rx_errors", "Errors while receiving."),
    "container_network_transmit_errors": ("tx_errors", "Errors while sending."),
    "container_network_receive_packets_dropped": ("rx_dropped", "Received packets that were dropped."),
    "container_network_transmit_packets_dropped": ("tx_dropped", "Packets to send that were dropped."),
}
_GAUGES = {
    "container_memory_usage_bytes": ("memory_usage", "Memory in use, caches included."),
    "container_memory_working_set_bytes": (
        "memory_working_set",
        "Memory in use without inactive file caches.",
    ),
    "container_memory_rss": ("memory_rss", "Anonymous memory."),
    "container_memory_cache": ("memory_cache", "Page cache."),
    "container_memory_swap": ("memory_swap", "Swap in use."),
    "container_spec_memory_limit_bytes": ("memory_limit", "Memory limit; 0: none."),
    "container_processes": ("pids", "Processes and threads."),
}


#: name, help, field of BackupView
_BACKUP_GAUGES = (
    ("stead_volume_backup_last_success_timestamp_seconds", "When the last good backup was begun.", "at"),
    ("stead_volume_backup_size_bytes", "The file of the last good backup.", "bytes"),
    ("stead_volume_backup_duration_seconds", "How long the last good backup took.", "seconds"),
    (
        "stead_volume_backup_drill_last_success_timestamp_seconds",
        "When a backup was last restored aside and found well.",
        "drilled_at",
    ),
)


#: name, help, field of JobView
_JOB_GAUGES = (
    ("stead_job_last_success_timestamp_seconds", "When the last good run ended; 0: never.", "last_success"),
    ("stead_job_last_run_timestamp_seconds", "When the last run began; 0: never.", "last_began"),
    ("stead_job_next_run_timestamp_seconds", "When it is due next; 0: never.", "next_at"),
)


def render(view: View) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(view))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        yield from _agent(self._view)
        yield from _objects(self._view)
        yield from _images(self._view)
        yield from _volumes(self._view)
        yield from _jobs(self._view)
        yield from _samples(self._view)


Rows = Iterable[tuple[Sequence[str], float]]


def _gauge(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _counter(name: str, text: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _agent(view: View) -> Iterator[Metric]:
    sources, counters = view.sources, view.counters
    yield _gauge("stead_build_info", "The agent's version.", ["version"], [((view.version,), 1)])
    revisions = [((source.name, source.revision), 1.0) for source in sources]
    yield _gauge("stead_source_info", "The revision in force.", ["source", "revision"], revisions)
    success = [((source.name,), source.last_success) for source in sources]
    name = "stead_source_last_success_timestamp_seconds"
    yield _gauge(name, "When all that the source declares was last converged.", ["source"], success)
    errors = [((source.name,), float(len(source.errors) + bool(source.fetch_error))) for source in sources]
    yield _gauge("stead_source_errors", "Problems of the newest revision seen.", ["source"], errors)
    rounds = [((outcome,), float(count)) for outcome, count in sorted(counters.rounds.items())]
    yield _counter("stead_reconciles", "Rounds of observe and plan.", ["outcome"], rounds)
    spent = [((), counters.round_seconds)]
    yield _counter("stead_reconcile_seconds", "Time spent in rounds.", [], spent)
    yield _gauge("stead_reconcile_last_seconds", "The last round.", [], [((), counters.last_round_seconds)])
    labels = ["kind", "action", "reason", "result"]
    steps = [(key, float(count)) for key, count in sorted(counters.steps.items())]
    yield _counter("stead_steps", "Steps that ended.", labels, steps)
    drift = [((kind,), float(count)) for kind, count in sorted(counters.drift.items())]
    yield _counter("stead_drift", "Repairs begun.", ["kind"], drift)
    repairs = [((kind,), float(count)) for kind, count in sorted(counters.repairs.items())]
    yield _counter("stead_repairs", "Repairs done.", ["kind"], repairs)
    looks = [((), float(counters.looks))]
    yield _counter("stead_network_looks", "Looks at networks alone, after events.", [], looks)
    spent = [((), counters.look_seconds)]
    yield _counter("stead_network_look_seconds", "Time spent in them.", [], spent)
    waits = [((source.name,), float(bool(source.held))) for source in sources]
    text = "1 where the newest revision is held back: for approval, or by a pin."
    yield _gauge("stead_source_held", text, ["source"], waits)
    hooks = [((result,), float(counters.webhooks.get(result, 0))) for result in ("sent", "failed", "dropped")]
    yield _counter("stead_webhook_notices", "Notices for notify.webhook.", ["result"], hooks)
    turns = [(key, float(count)) for key, count in sorted(counters.rollouts.items())]
    text = "Updates that ended, by how, and revisions that were held back."
    yield _counter("stead_rollouts", text, ["source", "result"], turns)
    states = Counter((item.source, item.code) for item in view.blocked if item.kind == "rollout")
    rows = [(key, float(count)) for key, count in sorted(states.items())]
    yield _gauge("stead_rollout_state", "Services by what there is to tell.", ["source", "state"], rows)
    blocked = Counter((item.kind, item.code) for item in view.blocked)
    rows = [(key, float(count)) for key, count in sorted(blocked.items())]
    yield _gauge("stead_blocked", "Things that cannot be converged now.", ["kind", "code"], rows)


#: Phases in which a container is ready or not.
READY_PHASES = (Phase.STARTING, Phase.RUNNING)


def _state(item: ObservedContainer) -> str:
    return CRASH_LOOP if item.crash_loop else item.phase.value


def _objects(view: View) -> Iterator[Metric]:
    observed = view.observed
    states = Counter(("container", _state(item)) for item in observed.containers.values())
    states.update(("network", "drifted" if item.defects else "ready") for item in observed.networks.values())
    states.update(("volume", "orphan" if item.orphaned_at else "ready") for item in observed.volumes.values())
    states["image", "ready"] = len({image.id for image in observed.images.values()})
    rows = [(key, float(count)) for key, count in sorted(states.items())]
    yield _gauge("stead_objects", "What exists, by kind and state.", ["kind", "state"], rows)
    containers = sorted(observed.containers.values(), key=lambda item: item.name)
    restarts = [
        ((item.name, reason), float(dict(item.restart_reasons).get(reason, 0)))
        for item in containers
        for reason in REASONS
    ]
    yield _counter("stead_container_restarts", "Restarts by the shim.", ["name", "reason"], restarts)
    health = [((item.name, item.health.value), 1.0) for item in containers if item.health.value != "none"]
    yield _gauge("stead_container_health", "1 for the state it is in.", ["name", "state"], health)
    dropped = [((item.name,), float(item.log_dropped)) for item in containers]
    text = "Bytes of output that were lost since the shim began."
    yield _counter("stead_container_log_dropped_bytes", text, ["name"], dropped)
    ready = [((item.name,), float(item.ready)) for item in containers if item.phase in READY_PHASES]
    yield _gauge("stead_container_ready", "What the readiness probe says; 1 without one.", ["name"], ready)
    loops = [((item.name,), item.next_start_at) for item in containers if item.crash_loop]
    name = "stead_container_crash_loop_next_start_timestamp_seconds"
    yield _gauge(name, "When what crash-loops is started again; 0: it was just now.", ["name"], loops)
    walls = [((item.name, word), 1.0) for item in containers for word in item.loosened]
    yield _gauge("stead_container_loosened", "1 for each wall that is taken down.", ["name", "wall"], walls)


def _images(view: View) -> Iterator[Metric]:
    counters, disk = view.counters.images, view.observed.disk
    pulls = [(key, float(count)) for key, count in sorted(counters.pulls.items())]
    yield _counter("stead_image_pulls", "Pulls that ended.", ["host", "result"], pulls)
    seconds = [((host,), value) for host, value in sorted(counters.pull_seconds.items())]
    yield _counter("stead_image_pull_seconds", "Time of pulls that succeeded.", ["host"], seconds)
    labels = ["direction", "host"]
    moved = [(key, float(count)) for key, count in sorted(counters.transfer_bytes.items())]
    yield _counter("stead_registry_transfer_bytes", "Bytes of blobs.", labels, moved)
    lasted = sorted(counters.transfer_seconds.items())
    yield _counter("stead_registry_transfer_seconds", "Time that blobs took.", labels, lasted)
    builds = [((result,), float(count)) for result, count in sorted(counters.builds.items())]
    yield _counter("stead_builds", "Builds that ended.", ["result"], builds)
    spent = [((), counters.build_seconds)]
    yield _counter("stead_build_seconds", "Time of builds that succeeded.", [], spent)
    steps = [
        (("true" if cached else "false",), float(counters.build_steps.get(cached, 0)))
        for cached in (False, True)
    ]
    yield _counter("stead_build_steps", "Steps of builds that succeeded.", ["cached"], steps)
    gone = [((), float(counters.collected))]
    yield _counter("stead_images_collected", "Images that nothing needed and that were removed.", [], gone)
    freed = [((), float(counters.collected_bytes))]
    yield _counter("stead_images_collected_bytes", "Bytes that this freed.", [], freed)
    yield _gauge("stead_image_layers_bytes", "Unpacked layers of images.", [], [((), float(disk.layers))])
    sizes = [(("total",), float(disk.total)), (("free",), float(disk.free))]
    yield _gauge("stead_disk_bytes", "The file system of the state directory.", ["state"], sizes)


def _volumes(view: View) -> Iterator[Metric]:
    sizes = [((item.name,), float(item.size)) for item in view.orphans if item.size >= 0]
    yield _gauge("stead_volume_orphan_bytes", "Volumes that nothing declares.", ["volume"], sizes)
    for name, text, field in _BACKUP_GAUGES:
        rows = [((item.volume,), float(getattr(item, field))) for item in view.backups]
        yield _gauge(name, text, ["volume"], rows)
    counts = {(item.volume, what): 0 for item in view.backups for what in ("backup", "drill")}
    counts |= view.counters.backup_failures
    failures = [(key, float(count)) for key, count in sorted(counts.items())]
    text, labels = "Backups and drills that failed.", ["volume", "what"]
    yield _counter("stead_volume_backup_failures", text, labels, failures)


def _jobs(view: View) -> Iterator[Metric]:
    counts = [
        ((item.name, result), float(item.results.get(result, 0))) for item in view.jobs for result in RESULTS
    ]
    yield _counter("stead_job_runs", "Runs that ended, or never began.", ["name", "result"], counts)
    for name, text, field in _JOB_GAUGES:
        rows = [((item.name,), float(getattr(item, field) or 0.0)) for item in view.jobs]
        yield _gauge(name, text, ["name"], rows)
    lasted = [((item.name,), item.last_ended - item.last_began) for item in view.jobs if item.last_ended]
    yield _gauge("stead_job_last_run_duration_seconds", "How long the last run took.", ["name"], lasted)
    running = [((item.name,), float(item.state == "running")) for item in view.jobs]
    yield _gauge("stead_job_running", "1 while a run of it runs.", ["name"], running)


def _samples(view: View) -> Iterator[Metric]:
    labels = ["id", "name", "image"]
    there = {item.id for item in view.observed.containers.values()}
    samples = [item for item in view.samples if item.id in there]
    for name, (field, text) in _COUNTERS.items():
        rows = [((item.id, item.name, item.image), float(getattr(item, field))) for item in samples]
        yield _counter(name, text, labels, rows)
    for name, (field, text) in _GAUGES.items():
        rows = [((item.id, item.name, item.image), float(getattr(item, field))) for item in samples]
        yield _gauge(name, text, labels, rows)
