"""What a scrape says of a View: Prometheus' text, cAdvisor's names, and nothing of what is gone."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics
from agent.view import BackupView, BlockedView, Counters, ImageCounters, OrphanView, SourceView, View
from runtime.observations import Disk, Health, Observed, ObservedContainer, ObservedNetwork, Phase, Sample

WEB = ObservedContainer(
    id="0123",
    name="shop/web",
    source="shop",
    identity="i",
    adjustable="a",
    facets="{}",
    image="docker.io/library/web:1",
    image_id="sha256:1",
    phase=Phase.RUNNING,
    health=Health.HEALTHY,
    restarts=3,
    restart_reasons=(("oom", 2), ("signal", 1)),
    loosened=("privileged", "cap_add NET_ADMIN"),
)
NET = ObservedNetwork("shop/default", "shop", "f", "st0", "10.88.0.0/24", "10.88.0.1")
DISK = Disk("/var/lib/stead", 1000, 200, 300)
VIEW = View(
    version="1.2.3",
    sources=(SourceView("shop", "git", "/shop.git", revision="abc", last_success=7.0, errors=("a", "b")),),
    observed=Observed(containers={"shop/web": WEB}, networks={"shop/default": NET}, disk=DISK),
    blocked=(BlockedView("container", "shop/db", "shop", "port-taken", "why"),),
    counters=Counters(
        steps={("container", "start", "new", "ok"): 4},
        rounds={"converged": 9, "error": 1},
        round_seconds=0.5,
        last_round_seconds=0.05,
        drift={"bridge": 2},
        images=ImageCounters(
            pulls={("docker.io", "ok"): 2},
            pull_seconds={"docker.io": 1.5},
            transfer_bytes={("pull", "mirror:5000"): 1000},
            transfer_seconds={("pull", "mirror:5000"): 0.5},
            builds={"ok": 3, "build-failed": 1},
            build_seconds=9.0,
            build_steps={True: 7, False: 2},
            collected=4,
            collected_bytes=5000,
        ),
        backup_failures={("shop/data", "drill"): 2},
    ),
    orphans=(OrphanView("shop/old", "shop", 5.0, 700), OrphanView("shop/on", "shop", 5.0, -1)),
    backups=(BackupView("shop/data", "shop", 9.0, 1.5, 2048, drilled_at=8.0),),
    samples=(
        Sample("0123", "shop/web", "docker.io/library/web:1", cpu_seconds=1.5, memory_working_set=4096),
    ),
)


def series(view: View) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.render(view).decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("stead_build_info", {"version": "1.2.3"}, 1),
        ("stead_source_info", {"source": "shop", "revision": "abc"}, 1),
        ("stead_source_last_success_timestamp_seconds", {"source": "shop"}, 7),
        ("stead_source_errors", {"source": "shop"}, 2),
        ("stead_reconciles_total", {"outcome": "converged"}, 9),
        ("stead_reconciles_total", {"outcome": "error"}, 1),
        ("stead_reconcile_seconds_total", {}, 0.5),
        ("stead_reconcile_last_seconds", {}, 0.05),
        ("stead_steps_total", {"kind": "container", "action": "start", "reason": "new", "result": "ok"}, 4),
        ("stead_drift_total", {"kind": "bridge"}, 2),
        ("stead_image_pulls_total", {"host": "docker.io", "result": "ok"}, 2),
        ("stead_image_pull_seconds_total", {"host": "docker.io"}, 1.5),
        ("stead_registry_transfer_bytes_total", {"direction": "pull", "host": "mirror:5000"}, 1000),
        ("stead_registry_transfer_seconds_total", {"direction": "pull", "host": "mirror:5000"}, 0.5),
        ("stead_builds_total", {"result": "build-failed"}, 1),
        ("stead_build_seconds_total", {}, 9),
        ("stead_build_steps_total", {"cached": "true"}, 7),
        ("stead_images_collected_total", {}, 4),
        ("stead_images_collected_bytes_total", {}, 5000),
        ("stead_image_layers_bytes", {}, 300),
        ("stead_volume_orphan_bytes", {"volume": "shop/old"}, 700),
        ("stead_volume_backup_last_success_timestamp_seconds", {"volume": "shop/data"}, 9),
        ("stead_volume_backup_size_bytes", {"volume": "shop/data"}, 2048),
        ("stead_volume_backup_duration_seconds", {"volume": "shop/data"}, 1.5),
        ("stead_volume_backup_drill_last_success_timestamp_seconds", {"volume": "shop/data"}, 8),
        ("stead_volume_backup_failures_total", {"volume": "shop/data", "what": "drill"}, 2),
        ("stead_volume_backup_failures_total", {"volume": "shop/data", "what": "backup"}, 0),
        ("stead_disk_bytes", {"state": "free"}, 200),
        ("stead_blocked", {"kind": "container", "code": "port-taken"}, 1),
        ("stead_objects", {"kind": "container", "state": "running"}, 1),
        ("stead_objects", {"kind": "network", "state": "ready"}, 1),
        ("stead_container_restarts_total", {"name": "shop/web", "reason": "oom"}, 2),
        ("stead_container_restarts_total", {"name": "shop/web", "reason": "failure"}, 0),
        ("stead_container_health", {"name": "shop/web", "state": "healthy"}, 1),
        ("stead_container_loosened", {"name": "shop/web", "wall": "cap_add NET_ADMIN"}, 1.0),
    ],
)
def test_the_agent_and_its_objects_are_told(name: str, labels: dict[str, str], value: float) -> None:
    assert series(VIEW)[name, tuple(sorted(labels.items()))] == value


def test_use_of_containers_has_cadvisors_names_and_labels() -> None:
    labels = (("id", "0123"), ("image", "docker.io/library/web:1"), ("name", "shop/web"))
    found = series(VIEW)
    assert found["container_cpu_usage_seconds_total", labels] == 1.5
    assert found["container_memory_working_set_bytes", labels] == 4096
    assert found["container_network_receive_bytes_total", labels] == 0


def test_series_of_what_is_gone_go() -> None:
    gone = replace(VIEW, observed=Observed(), blocked=(), sources=())
    left = {name for name, _ in series(gone)}
    assert not {name for name in left if name.startswith("container_")}
    assert not left & {"stead_container_restarts_total", "stead_container_health", "stead_source_info"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_promtool_has_nothing_to_say() -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(VIEW), capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
