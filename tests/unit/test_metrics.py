"""What a scrape says of a View: Prometheus' text, cAdvisor's names, and nothing of what is gone."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics
from agent.view import BlockedView, Counters, SourceView, View
from runtime.interface import Health, Observed, ObservedContainer, ObservedNetwork, Phase, Sample

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
)
NET = ObservedNetwork("shop/default", "shop", "f", "st0", "10.88.0.0/24", "10.88.0.1")
VIEW = View(
    version="1.2.3",
    sources=(SourceView("shop", "git", "/shop.git", revision="abc", last_success=7.0, errors=("a", "b")),),
    observed=Observed(containers={"shop/web": WEB}, networks={"shop/default": NET}),
    blocked=(BlockedView("container", "shop/db", "shop", "port-taken", "why"),),
    counters=Counters(
        steps={("container", "start", "new", "ok"): 4},
        rounds={"converged": 9, "error": 1},
        round_seconds=0.5,
        last_round_seconds=0.05,
        drift={"bridge": 2},
    ),
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
        ("stead_blocked", {"kind": "container", "code": "port-taken"}, 1),
        ("stead_objects", {"kind": "container", "state": "running"}, 1),
        ("stead_objects", {"kind": "network", "state": "ready"}, 1),
        ("stead_container_restarts_total", {"name": "shop/web", "reason": "oom"}, 2),
        ("stead_container_restarts_total", {"name": "shop/web", "reason": "failure"}, 0),
        ("stead_container_health", {"name": "shop/web", "state": "healthy"}, 1),
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
