"""Effects: Stead, podman and docker, each with a state of its own and one busybox image.

A test says words after the engine's name, as people type them, and looks at what comes back. What only one
engine needs to work on a machine like this (options of its own) is added here: tests never ask which it is.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import rivals
from tests.e2e.engines_box import image_archive
from tests.kernel.docker_box import Said
from tests.kernel.hand_box import hand

IMAGE = rivals.IMAGE
#: The same files, and a configuration: what is inherited is told apart from what is said.
CONFIGURED = "bench/configured:1"
CHANGES = (
    'ENTRYPOINT ["echo","entry"]',
    'CMD ["word"]',
    "ENV FROM_IMAGE=image",
    "ENV OTHER=kept",
    "WORKDIR /srv/work",
    "USER web",
    "LABEL tier=front",
    "EXPOSE 8080",
    "VOLUME /seed",
)
#: Of the agent's settings: this folder's own, since others run beside it.
POOLS = ("10.213.0.0/16", "10.209.0.0/16")
DEADLINE = 30.0
RUNS = ("run", "create")
SECTION = "@@@"  # begins the line before each answer


class Engine:
    """One command line. Containers that a test names are removed by it, the rest when the engine ends."""

    def __init__(self, rival: rivals.Engine, more: Mapping[str, Sequence[str]]) -> None:
        self.name, self._rival, self._more = rival.name, rival, more

    @property
    def environment(self) -> dict[str, str]:
        return self._rival.environment

    def command(self, *words: str) -> list[str]:
        verb, *rest = words
        more = self._more.get(verb, ()) if verb in RUNS or "-f" in rest else ()
        return self._rival.command(verb, *more, *rest)

    def call(self, *words: str, stdin: str = "", environment: Mapping[str, str] | None = None) -> Said:
        done = subprocess.run(
            self.command(*words),
            env={**self.environment, **(environment or {})},
            input=stdin.encode(),
            capture_output=True,
            timeout=60,
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*words), env=self.environment, **more)

    def do(self, *words: str, stdin: str = "") -> str:
        """What a command prints that must succeed, without the last line break."""
        said = self.call(*words, stdin=stdin)
        assert said.code == 0, (self.name, words, said)
        return said.out.rstrip("\n")

    def fails(self, *words: str, code: int = 0) -> str:
        """What a command says that must fail, with that code if one is named."""
        said = self.call(*words)
        assert said.code != 0 and (not code or said.code == code), (self.name, words, said)
        return said.errors

    def sh(self, script: str, *options: str, image: str = IMAGE) -> Said:
        """A shell script in a container of its own without a network, to its end."""
        return self.call("run", "--rm", "--network", "none", *options, image, "sh", "-c", script)

    def ask(self, questions: Mapping[str, str], *options: str, image: str = IMAGE) -> dict[str, str]:
        """What each of these scripts prints (both streams) in one container with these options."""
        script = "\n".join(f"echo '{SECTION}{key}'\n( {text} ) 2>&1" for key, text in questions.items())
        said = self.call("run", "--rm", "--entrypoint", "sh", *options, image, "-c", script)
        answers = dict.fromkeys(questions, "")
        for part in said.out.split(SECTION)[1:]:
            key, _, text = part.partition("\n")
            answers[key] = text.rstrip("\n")
        assert SECTION in said.out, said
        return answers

    def field(self, name: str, template: str) -> str:
        return self.do("inspect", "-f", template, name)

    def status(self, name: str) -> str:
        return self.field(name, "{{.State.Status}}")

    def names(self, *options: str) -> set[str]:
        return set(self.do("ps", *options, "--format", "{{.Names}}").split())

    def forget(self, name: str) -> None:
        self.call("rm", "-f", "-v", name)

    def close(self) -> None:
        self._rival.close()


class Stead(rivals.Engine):
    """The command line, and an agent that it asks unless it is to do everything by itself."""

    def __init__(self, name: str, base: Path) -> None:
        super().__init__(base)
        self.name = name
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a thousand processes: they compile once
        base.mkdir(parents=True)
        self._leaving = ExitStack()
        machine = self._leaving.enter_context(hand(base, agent=False))
        self.prefix = machine.command()
        if name == "stead":
            settings = base / "stead.toml"
            settings.write_text(settings.read_text().replace(*POOLS))
            machine.start_agent()

    def close(self) -> None:
        self._leaving.close()


def archive(base: Path) -> Path:
    """The image: busybox, two users and three groups, a directory with content for volumes to begin with."""
    found = image_archive(base)
    root = base / "rootfs"
    (root / "etc" / "group").write_text("root:x:0:\nweb:x:1000:\nextra:x:2000:web\n")
    (root / "tmp").chmod(0o1777)
    (root / "seed" / "deep").mkdir(parents=True)
    (root / "seed" / "file").write_text("seed\n")
    (root / "seed" / "file").chmod(0o640)
    for path in (root / "seed", root / "seed" / "file", root / "seed" / "deep"):
        os.chown(path, 1000, 1000)
    subprocess.run(["tar", "-C", str(root), "-cf", str(found), "."], check=True)
    return found


def start(name: str, base: Path) -> Engine:
    """Raises rivals.Unavailable."""
    image = archive(base)
    home = base / name
    limits = rivals.Podman.options
    if name == "podman":
        more = {**dict.fromkeys(RUNS, limits), "rm": rivals.Podman.at_once}
        made = Engine(_with_loopback(rivals.Podman(home, image)), more)
    elif name == "docker":
        made = Engine(_with_loopback(rivals.Docker(home, image)), {})
    else:
        made = Engine(Stead(name, home), {})
        made.do("image", "import", str(image), IMAGE)
    changes = [word for change in CHANGES for word in ("-c", change)]
    try:
        made.do("image", "import", *changes, str(image), CONFIGURED)
    except AssertionError:
        made.close()
        raise
    return made


def _with_loopback(rival: rivals.Engine) -> rivals.Engine:
    """Its network namespace is new: nothing could be published at 127.0.0.1."""
    subprocess.run([*rival.entering, "ip", "link", "set", "lo", "up"], check=True)
    return rival


def until(condition: Callable[[], bool]) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < DEADLINE
        time.sleep(0.02)  # between two looks
