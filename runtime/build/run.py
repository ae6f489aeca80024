"""Effects: a RUN step: its mounts, its files, its program, and the layer of what it changed.

The program is a container of this runtime with its defaults: namespaces, capabilities, system call filter,
devices, masked paths, a cgroup of its own. /proc, /etc/hosts and the like are there and never in the layer.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime import bundle
from runtime.build import places, stubs
from runtime.build.executor import Executor, Outcome
from runtime.build.workspace import Workspace, cgroup_path
from runtime.bundle import Setting
from runtime.filters import filter_file
from runtime.linux import capabilities
from runtime.net import names, resolvconf
from runtime.users import find_user
from runtime.wishes import ContainerRequest, LimitsRequest
from specs.values import ImageRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOSTNAME = "buildkitsandbox"  # what programs that ask for it in a build are used to


@dataclass(frozen=True, slots=True)
class Tree:
    """An overlay that is mounted for the step at `at`: `lowers` the top one first; without `upper`
    read-only."""

    lowers: Sequence[Path]
    at: Path
    upper: Path | None = None
    work: Path | None = None

    def document(self) -> dict[str, Any]:
        made = {"lowers": [str(path) for path in self.lowers], "at": str(self.at)}
        if self.upper is not None and self.work is not None:
            made |= {"upper": str(self.upper), "work": str(self.work)}
        return made


@dataclass(frozen=True, slots=True)
class Program:
    """What a RUN runs. `environment` is all that it sees but PATH and HOME; `mounts` are OCI mounts whose
    sources lie in `trees` or anywhere on the host, with whether each is a directory."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str
    user: str
    network: str  # host | none | the path of a network namespace
    addresses: tuple[str, ...] = ()
    gateway: str = ""
    mounts: tuple[tuple[Mapping[str, Any], bool], ...] = ()
    trees: tuple[Tree, ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = 0
    ulimits: tuple[tuple[str, int, int], ...] = ()
    limits: LimitsRequest | None = None


def run(
    work: Workspace,
    executor: Executor,
    run_directory: Path,
    chain: Sequence[str],
    program: Program,
    output: Callable[[bytes], None],
) -> tuple[Outcome, Path]:
    """Run `program` over `chain`. Returns how it ended and the directory of what it changed.

    Raises OSError, Fault request-invalid for a user that the image does not know, executor.Cancelled.
    """
    base = work.base(chain)
    home = work.new()
    files = _files(home, program)
    document = _config(base, home / "rootfs", run_directory, program, files, work.id)
    lowers = work.lowers(chain)
    wanted = [(str(item["destination"]), is_dir) for item, is_dir in _destinations(document, program, files)]
    absent = stubs.missing(base, wanted)
    if absent:
        lowers = [stubs.make(work, chain, absent), *lowers]
    upper = work.upper(chain)
    cgroup = cgroup_path(work.id, home.name)
    (home / "rootfs").mkdir(mode=0o755)
    root = Tree(lowers, home / "rootfs", upper, upper.with_name("work"))
    job = {
        "trees": [tree.document() for tree in (*program.trees, root)],
        "config": document,
        "bundle": str(home),
        "cgroup": cgroup,
        "devices": [],
        "alone": program.network == "none",
        "limits": asdict(program.limits) if program.limits is not None else {},
    }
    path = home / "job.json"
    path.write_bytes(json.dumps(job).encode())
    return executor.run(path, cgroup, output), upper


def _files(home: Path, program: Program) -> list[dict[str, Any]]:
    """hosts and resolv.conf of this step alone: what is written to them is lost."""
    extra = program.extra_hosts
    if program.network == "host":
        hosts = names.host_hosts(names.read_small(Path("/etc/hosts")) or "", extra)
        resolv = resolvconf.resolv_text(resolvconf.raw_host_text(), (), (), (), loopback=True)
    else:
        hosts = names.hosts_text(HOSTNAME, "", program.addresses, extra, program.gateway)
        resolv = resolvconf.resolv_text(resolvconf.host_text(), (), (), ())
    made = []
    for name, text in (("hosts", hosts), ("resolv.conf", resolv)):
        path = home / name
        path.write_text(text)
        path.chmod(0o644)
        made.append({"destination": f"/etc/{name}", "type": "bind", "source": str(path), "options": ["bind"]})
    return made


def _config(
    base: int,
    rootfs: Path,
    run_directory: Path,
    program: Program,
    files: Sequence[Mapping[str, Any]],
    build: str,
) -> dict[str, Any]:
    own = capabilities.bounding()
    taken = {str(item["destination"]) for item, _ in program.mounts}
    request = ContainerRequest(
        name=f"build/{build}",
        source="build",
        identity="",
        adjustable="",
        facets="",
        image=ImageRef("docker.io", "library/scratch", "latest"),
        entrypoint=program.words,
        environment=program.environment,
        working_dir=program.directory or "/",
        hostname=HOSTNAME,
        network_mode="host" if program.network == "host" else "none",
        shm_size=program.shm_size,
        ulimits=program.ulimits,
    )
    user = find_user(program.user, (), places.text(base, "etc/passwd"), places.text(base, "etc/group"))
    setting = Setting(
        id=build,
        rootfs=str(rootfs),
        cgroup="",
        netns={"host": None, "none": ""}.get(program.network, program.network),
        hostname=HOSTNAME,
        user=user,
        mounts=tuple(item for item, _ in program.mounts)
        + tuple(item for item in files if item["destination"] not in taken),
        all_capabilities=own,
        seccomp=str(filter_file(run_directory, set(bundle.capabilities(request, own)) & set(own))),
    )
    document = bundle.oci_config(request, {}, setting)
    process = document["process"]
    process["env"] = [entry for entry in process["env"] if not entry.startswith("HOSTNAME=")]
    if "HOSTNAME" in program.environment:
        process["env"].append(f"HOSTNAME={program.environment['HOSTNAME']}")
    return document


def _destinations(
    document: Mapping[str, Any], program: Program, files: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], bool]]:
    flat = {str(item["destination"]) for item in files}
    flat |= {str(item["destination"]) for item, is_dir in program.mounts if not is_dir}
    return [(item, str(item["destination"]) not in flat) for item in document["mounts"]]


# ---------------------------------------------------------------- mounts of the user's own


def bind(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "ro" if read_only else "rw"]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def tmpfs(target: str, size: int) -> dict[str, Any]:
    options = ["nosuid", "nodev", "mode=1777" if target == "/tmp" else "mode=755"]
    options += [f"size={size}"] if size else []
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}


def secret_file(directory: Path, content: bytes, uid: int, gid: int, mode: int) -> Path:
    """In `directory`, which is on a tmpfs: a secret is never on a disk."""
    fd, path = tempfile.mkstemp(dir=directory)  # of its own: stages have theirs side by side
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        os.fchown(file.fileno(), uid, gid)
        os.fchmod(file.fileno(), mode)
    return Path(path)


def is_socket(path: str) -> bool:
    """Whether an agent listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def with_upper(work: Workspace, tree: Tree) -> Tree:
    """The same tree to write to; what is written is lost."""
    home = work.new()
    for name in ("upper", "work"):
        (home / name).mkdir(mode=0o755)
    return replace(tree, upper=home / "upper", work=home / "work")


def inside(tree: Tree, root: int, path: str) -> tuple[Path, bool]:
    """Where `path` of a tree is once it is mounted, and whether it is a directory. FileNotFoundError."""
    resolved = places.resolve(root, path)
    found = places.status(root, resolved)
    if found is None:
        raise FileNotFoundError(2, os.strerror(2), f"/{resolved}")
    return tree.at / resolved if resolved else tree.at, places.is_directory(found)
