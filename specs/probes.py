"""Decisions: what a healthcheck asks for: the probe of liveness, and those of startup and readiness.

`wrong(path, text, at_key=True)` is told of contradictions; the path begins at the container's table.
"""

from __future__ import annotations

from collections.abc import Callable

from specs.desired import Probe
from specs.policies import Healthcheck, HealthPhase

Wrong = Callable[..., None]

#: Keys of a healthcheck that may change the image's own, where they stand alone.
TIMES = ("interval", "timeout", "retries", "start_period", "start_interval", "on_failure")
_TESTS = ("test", "http", "tcp")
#: Keys that say how http asks.
_HOW = ("method", "headers", "expect_status", "tls_verify")
#: Bytes of all headers, which a probe sends in one piece.
MAX_HEADERS = 8192


def liveness(check: Healthcheck | None, wrong: Wrong) -> Probe | None:
    """None: the image's own test, if it has one."""
    if check is None or (check.disable is False and len(check.model_fields_set) == 1):
        return None
    if check.disable or check.test == ("NONE",):
        return Probe(disabled=True)
    said = _tests(check, ("healthcheck",), wrong)
    if said is None:
        return None
    given = () if said else tuple(key for key in TIMES if getattr(check, key) is not None)
    if not said and not given:
        if check.startup is None and check.readiness is None:
            wrong(("healthcheck",), "it says nothing: write test, http or tcp", at_key=True)
        return None
    return _probe(check, given, check.on_failure or Probe().on_failure)


def phase(check: Healthcheck | None, kind: str, wrong: Wrong) -> Probe | None:
    """The probe of `startup` or `readiness`."""
    asked = getattr(check, kind) if check is not None else None
    if asked is None:
        return None
    path = ("healthcheck", kind)
    if asked.test == ("NONE",):
        wrong((*path, "test"), "NONE is said of the image's own test, which is none of " + kind)
        return None
    said = _tests(asked, path, wrong)
    if said is not None and not said:
        wrong(path, "it has no test: write test, http or tcp", at_key=True)
    return _probe(asked, (), Probe().on_failure) if said else None


def _tests(check: HealthPhase, path: tuple[str, ...], wrong: Wrong) -> tuple[str, ...] | None:
    """The test that is written, if any; None where they contradict each other."""
    said = tuple(key for key in _TESTS if getattr(check, key) is not None)
    if len(said) > 1:
        wrong(path, f"write one of test, http and tcp, not {' and '.join(said)}", at_key=True)
        return None
    how = [key for key in _HOW if getattr(check, key) is not None]
    if how and check.http is None:
        wrong((*path, how[0]), "it says how http asks, and there is no http", at_key=True)
        return None
    if check.tls_verify and not (check.http or "").startswith("https:"):
        wrong((*path, "tls_verify"), "there is no certificate without https", at_key=True)
        return None
    if sum(len(key) + len(value) + 4 for key, value in (check.headers or {}).items()) > MAX_HEADERS:
        wrong((*path, "headers"), f"all headers together have at most {MAX_HEADERS} bytes", at_key=True)
        return None
    return said


def _probe(check: HealthPhase, given: tuple[str, ...], on_failure: str) -> Probe:
    test, default = check.test or (), Probe()
    return Probe(
        exec=test[1:] if test[:1] == ("CMD",) else (),
        shell=test[1] if test[:1] == ("CMD-SHELL",) else "",
        http=check.http or "",
        tcp=check.tcp or "",
        interval=check.interval or default.interval,
        timeout=check.timeout or default.timeout,
        retries=check.retries or default.retries,
        start_period=check.start_period or default.start_period,
        start_interval=check.start_interval or default.start_interval,
        on_failure=on_failure,
        given=given,
        method=check.method or "",
        headers=tuple((check.headers or {}).items()),
        expect_status=check.expect_status or "",
        tls_verify=bool(check.tls_verify),
    )
