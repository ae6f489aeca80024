"""Which AppArmor profile a container has, on hosts with the module and without.

Directories stand for securityfs, a script for apparmor_parser, which writes down what it is given; the
profile itself is read by the real one.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.confinement import Confinement
from runtime.faults import Fault
from runtime.linux.apparmor import DEFAULT, PROFILE, AppArmor, renew
from runtime.paths import Paths
from runtime.wishes import ContainerRequest
from specs.values import ImageRef


@dataclass
class Host:
    base: Path

    @property
    def module(self) -> AppArmor:
        return AppArmor(str(self.base / "security"), str(self.base / "enabled"), (str(self.base / "parser"),))

    def confinement(self) -> Confinement:
        return Confinement(Paths(self.base / "root", self.base / "run"), self.module)

    def loads(self) -> int:
        """How often the parser was called."""
        calls = self.base / "calls"
        return calls.read_text().count("called") if calls.exists() else 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "security").mkdir()
    (tmp_path / "enabled").write_text("Y\n")
    (tmp_path / "security/profiles").write_text(
        "/usr/bin/man (enforce)\nweb one (complain)\nweb-1 (enforce)\n"
    )
    parser = tmp_path / "parser"
    parser.write_text(
        f"#!/bin/sh\necho called >> {tmp_path}/calls\nfor file; do :; done\ncat $file > {tmp_path}/given\n"
        f"test ! -e {tmp_path}/broken || {{ echo syntax error >&2; exit 1; }}\n"
        f"echo '{DEFAULT} (enforce)' >> {tmp_path}/security/profiles\n"
    )
    parser.chmod(0o755)
    return Host(tmp_path)


def request(**more: object) -> ContainerRequest:
    return ContainerRequest("p/c", "s", "i", "a", "{}", ImageRef.parse("a"), **more)  # type: ignore[arg-type]


def test_containers_have_our_profile_which_is_loaded_once(host: Host) -> None:
    confinement = host.confinement()
    assert [confinement.profile(request()) for _ in range(3)] == [DEFAULT] * 3
    assert host.loads() == 1
    assert (host.base / "given").read_text() == PROFILE
    assert host.confinement().profile(request(apparmor=DEFAULT)) == DEFAULT  # perhaps a newer release
    assert host.loads() == 2
    (host.base / "security/profiles").write_text("")  # somebody removed it
    assert confinement.profile(request()) == DEFAULT
    assert host.loads() == 3


def test_a_shim_loads_it_again_where_somebody_took_it_away(host: Host) -> None:
    confinement, module = host.confinement(), host.base / "security"
    source = confinement.source(confinement.profile(request()))
    assert confinement.source("web-1") == ""
    parsers = (str(host.base / "none"), str(host.base / "parser"))
    renew(source, str(module), parsers)
    assert host.loads() == 1  # it is there
    (module / "profiles").write_text(f"/usr/bin/{DEFAULT} (enforce)\n{DEFAULT}-2 (enforce)\n")
    (host.base / "given").unlink()
    renew(source, str(module), parsers)
    assert host.loads() == 2 and DEFAULT in host.module.loaded()
    assert (host.base / "given").read_text() == PROFILE
    shutil.rmtree(module)
    renew(source, str(module), parsers)
    assert host.loads() == 2


def test_no_profile_where_it_is_not_wanted(host: Host) -> None:
    for more in ({"apparmor": "unconfined"}, {"privileged": True}):
        assert host.confinement().profile(request(**more)) == ""
    assert host.loads() == 0


def test_a_profile_by_name_must_be_loaded(host: Host) -> None:
    assert host.confinement().profile(request(apparmor="web-1")) == "web-1"
    with pytest.raises(Fault, match="AppArmor profile web: no such profile is loaded"):
        host.confinement().profile(request(apparmor="web"))
    assert host.module.loaded()["web one"] == "complain"


@pytest.mark.parametrize(
    ("gone", "cause"),
    [
        ("enabled", "the kernel has no AppArmor"),
        ("parser", "no apparmor_parser"),
        ("security", "is not mounted"),
    ],
)
def test_a_host_without_it_has_none_unless_one_is_asked_for(host: Host, gone: str, cause: str) -> None:
    path, confinement = host.base / gone, host.confinement()
    path.rename(host.base / "aside")
    assert cause in host.module.missing()
    assert confinement.profile(request()) == ""
    with pytest.raises(Fault, match=cause):
        confinement.profile(request(apparmor=DEFAULT))
    (host.base / "aside").rename(path)  # it may come while the agent lives
    assert confinement.profile(request()) == DEFAULT


def test_a_module_that_is_switched_off_is_none(host: Host) -> None:
    (host.base / "enabled").write_text("N\n")
    assert host.confinement().profile(request()) == ""


def test_what_the_parser_says_is_told(host: Host) -> None:
    (host.base / "broken").touch()
    with pytest.raises(Fault, match="load apparmor profile: syntax error"):
        host.confinement().profile(request())


@pytest.mark.skipif(shutil.which("apparmor_parser", path="/sbin:/usr/sbin") is None, reason="needs apparmor")
def test_our_profile_is_one() -> None:
    words = ["/sbin/apparmor_parser", "--skip-kernel-load", "--skip-cache", "--quiet"]
    done = subprocess.run(words, input=PROFILE, capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "ERROR" in line]) == (0, [])
    broken = subprocess.run(
        words, input=PROFILE.replace("deny mount", "deny mountain"), capture_output=True, text=True
    )
    assert broken.returncode
