"""Secrets and configs in specs: what is meant, what is refused, and what of them is in a fingerprint."""

from __future__ import annotations

from pathlib import Path

import pyrage
import pytest

from agent import secrets
from agent.planner.causes import changes
from agent.secrets import Keys
from agent.sources.revision import Revision
from runtime.paths import Paths
from runtime.secrets import KEEP, SecretStore
from specs.desired import Desired, FileMount
from specs.fingerprint import digests, refilled
from tests.spec_text import container, desired_of, problems, read

AROUND = '[secret.s]\nfile = "s.age"\n[config.c]\ncontent = "x"\n'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('secrets = ["s"]', FileMount("secret", "p/s", "/run/secrets/s")),
        ('secrets = [{ source = "s", target = "a/b" }]', FileMount("secret", "p/s", "/run/secrets/a/b")),
        ('secrets = [{ source = "s", target = "/x" }]', FileMount("secret", "p/s", "/x")),
        (
            'secrets = [{ source = "p/s", uid = 5, gid = "6" }]',
            FileMount("secret", "p/s", "/run/secrets/s", 5, 6),
        ),
        ('configs = ["c"]', FileMount("config", "p/c", "/c")),
        ('configs = [{ source = "c", mode = 0o4711 }]', FileMount("config", "p/c", "/c", mode=0o711)),
    ],
)
def test_where_it_appears_and_whose_it_is(line: str, expected: FileMount) -> None:
    assert container(line, around=AROUND).files == (expected,)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('secrets = ["x"]', "container.c.secrets[0]: no secret 'x'"),
        ('secrets = ["c"]', "container.c.secrets[0]: no secret 'c'"),
        ('configs = [{ source = "x" }]', "container.c.configs[0].source: no config 'x'"),
        ('secrets = ["s", "s"]', "secrets[1]: something is mounted on '/run/secrets/s' already"),
        ('configs = ["c"]\ntmpfs = "/c"', "configs[0]: something is mounted on '/c' already"),
        ('secrets = [{ source = "s", uid = "root" }]', "secrets[0].uid: cannot use 'root': write a number"),
        (
            'secrets = [{ source = "s", target = "/proc/1/x" }]',
            "secrets[0].target: cannot use target '/proc/1/x'",
        ),
        ('secrets = [{ source = "s", target = "../x" }]', "secrets[0].target: cannot use target '../x'"),
    ],
)
def test_a_mount_that_cannot_be(line: str, expected: str) -> None:
    (found,) = problems(line, around=AROUND)
    assert expected in found and found.startswith("c.toml:")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", "write one of file, environment, external"),
        ('file = "a"\nenvironment = "B"', "external, not file and environment"),
        ('file = "../a"', "secret.a.file: '../a' is not in the source"),
        ('file = "/a"', "secret.a.file: '/a' is not in the source"),
        ('environment = "NO"', "secret.a.environment: variable 'NO' of the source is not set"),
        ('file = "a"\nname = "b"', "secret.a.name: a name of its own is for external ones"),
        ('external = true\nname = "../b"', "secret.a.name: '../b' is not the name of a file"),
        ('file = "a"\ndriver = "vault"', "secret.a.driver: not supported yet"),
    ],
)
def test_a_secret_that_cannot_be(body: str, expected: str) -> None:
    (found,) = read({"s.toml": f"[secret.a]\n{body}\n"})[1]
    assert expected in found


def test_the_bytes_are_part_of_what_a_container_is_and_the_cause_has_none_of_them() -> None:
    plain = container('secrets = ["s"]\nconfigs = ["c"]', around=AROUND)
    one = refilled(plain, {"secret p/s": "1" * 32, "config p/c": "3" * 32})
    two = refilled(plain, {"secret p/s": "2" * 32, "config p/c": "3" * 32})
    assert one == refilled(plain, {"secret p/s": "1" * 32, "config p/c": "3" * 32})
    assert one.identity != two.identity and one.adjustable == two.adjustable
    assert changes(one.facets, two.facets) == "secret s changed"
    assert digests(one.facets) == {"1" * 32, "3" * 32} and digests(plain.facets) == digests("junk") == set()
    three = refilled(plain, {"secret p/s": "2" * 32, "config p/c": "4" * 32})
    assert changes(one.facets, three.facets) == "config c changed, secret s changed"
    without = container('configs = ["c"]', around=AROUND)
    assert changes(without.facets, plain.facets) == "secrets./run/secrets/s: (unset) -> s"


def source(tmp_path: Path, files: dict[str, bytes]) -> tuple[Desired, Revision]:
    root = tmp_path / "source"
    root.mkdir()
    for name, data in files.items():
        (root / name).write_bytes(data)
    spec = "[container.c]\nimage='a'\nsecrets=['a', 'b']\n[secret.a]\nfile='a.age'\n[secret.b]\nfile='b'\n"
    revision = Revision("1", "", {"x.toml": spec.encode()}, str(root))
    return desired_of({"x.toml": spec}), revision


def test_only_digests_are_in_what_is_wanted_and_they_hold_without_the_source(tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    sealed = pyrage.encrypt(b"one", [identity.to_public()], armored=True)
    desired, revision = source(tmp_path, {"a.age": sealed, "b": b"two"})
    key = tmp_path / "key"
    key.write_text(f"# comment\n\n{identity}\n")
    keys = Keys((str(tmp_path / "none"), str(key)), "", Paths(tmp_path / "root", tmp_path / "run"))
    filled = secrets.fill(desired, revision, keys)
    assert filled.problems == () and set(filled.digests) == {"secret default/a", "secret default/b"}
    assert [one.digest for one in filled.desired.containers["default/c"].files] == list(
        filled.digests.values()
    )
    store = SecretStore(keys.paths or Paths())
    assert [store.get(d, "x") for d in filled.digests.values()] == [b"one", b"two"]
    gone = Revision("1", "", revision.files, str(tmp_path / "gone"), secrets=filled.digests)
    again = secrets.fill(desired, gone, Keys((), "", keys.paths), kept=True)
    assert again.desired == filled.desired and again.problems == ()
    assert all(b"one" not in f.read_bytes() for f in (tmp_path / "root/secrets").iterdir())


def test_what_cannot_be_read_is_told_at_its_place(tmp_path: Path) -> None:
    other = pyrage.x25519.Identity.generate()
    desired, revision = source(tmp_path, {"a.age": pyrage.encrypt(b"one", [other.to_public()])})
    paths = Paths(tmp_path / "root", tmp_path / "run")
    key = tmp_path / "key"
    found = secrets.fill(desired, revision, Keys((str(key),), "", paths)).problems
    assert found == (
        f"x.toml:5:6: secret.a: 'a.age' is encrypted, and there is no identity to decrypt it ({key})",
        "x.toml:7:6: secret.b: no file 'b' in the source",
    )
    key.write_text(str(pyrage.x25519.Identity.generate()))
    found = secrets.fill(desired, revision, Keys((str(key),), "", paths)).problems
    assert found[0] == f"x.toml:5:6: secret.a: no identity decrypts 'a.age' ({key})"
    key.write_text("junk")
    found = secrets.fill(desired, revision, Keys((str(key),), "", paths)).problems
    assert found[0].endswith(f"cannot read identities {key}: no age identity and no SSH key")
    found = secrets.fill(desired, revision, Keys()).problems
    assert found == ("x.toml:7:6: secret.b: no file 'b' in the source",)  # to validate takes no key


def test_a_link_out_of_the_source_and_junk_for_age_are_refused(tmp_path: Path) -> None:
    desired, revision = source(tmp_path, {"a.age": b"age-encryption.org/v1\n-> junk"})
    (tmp_path / "source" / "b").symlink_to("/etc/hostname")
    key = tmp_path / "key"
    key.write_text(str(pyrage.x25519.Identity.generate()))
    found = secrets.fill(
        desired, revision, Keys((str(key),), "", Paths(tmp_path / "r", tmp_path / "x"))
    ).problems
    assert found == (
        "x.toml:5:6: secret.a: cannot decrypt 'a.age': it is no whole age file",
        "x.toml:7:6: secret.b: 'b' is a link that leaves the source",
    )


def test_a_digest_is_no_hash_that_could_be_guessed(tmp_path: Path) -> None:
    one, two = (SecretStore(Paths(tmp_path / name, tmp_path / "run")) for name in ("a", "b"))
    assert one.put(b"password") == one.put(b"password") != two.put(b"password")
    assert SecretStore(Paths(tmp_path / "a", tmp_path / "run")).put(b"password") == one.put(b"password")


def test_what_nothing_needs_is_removed_after_a_while(tmp_path: Path) -> None:
    store = SecretStore(Paths(tmp_path, tmp_path / "run"))
    needed, idle = store.put(b"one"), store.put(b"two")
    at = (tmp_path / "secrets" / f"{idle}.age").stat().st_mtime
    store.collect({needed}, now=at + KEEP - 1)
    assert store.has(idle)
    at = (tmp_path / "secrets" / f"{idle}.age").stat().st_mtime
    store.collect({needed}, now=at + KEEP + 1)
    assert store.has(needed) and not store.has(idle)
