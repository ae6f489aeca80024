"""Decisions: all files of a source -> Desired, with every name resolved; or every problem of every file.

A source with one problem resolves to nothing: a bad spec is never half applied.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from specs import secrets, storage
from specs.builds import built_image
from specs.containers import Builder
from specs.declared import Declared, Index
from specs.dependencies import never_complete
from specs.desired import Desired, DesiredContainer, DesiredImage, DesiredNetwork, Place
from specs.documents import KINDS, Container, Image, Network
from specs.fingerprint import network_fingerprint
from specs.ignore import COMPOSE_FILES, LOCK_FILE, Ignored, is_read, spec_files
from specs.interpolate import flatten_node, parse_env
from specs.load import Loaded, load
from specs.networks import AnyNetwork, check_external, name_of, network_of
from specs.parse import Document, parse
from specs.problems import Problem
from specs.pulls import PullPolicy, local_names, lockable, merge_image, read_lock
from specs.replicas import replica_count
from specs.shapes import NOT_YET
from specs.values import ImageRef, PortBinding, addresses_meet

DEFAULT_NETWORK = "default"
MAX_CONTAINERS = 10_000  # of one source, replicas included


def resolve(
    files: Mapping[str, bytes],
    *,
    source: str,
    variables: Mapping[str, str],
    node: Mapping[str, Any] | None = None,
    source_root: str = "",
    tree: str = "",
    profiles: Collection[str] = (),
) -> tuple[Desired | None, tuple[Problem, ...]]:
    """`files`: path in the source -> content (specs, and what they name: env files, .env, .steadignore).

    `variables` win over a `.env` beside the file. `node` is {"name": ..., "labels": {...}}. `source_root` is
    the source's directory on this machine, where relative bind sources lie, `tree` where its files lie as
    they are in this revision (builds are made from them). Containers with `profiles` are there when one of
    theirs is among `profiles`; `*` is every one. Desired is None exactly when there are problems;
    these are sorted by place and hold no duplicates.
    """
    work = _Work(files, source, {**flatten_node(node or {}), **variables}, source_root)
    work.tree = tree or source_root or "/"
    work.profiles = frozenset(profiles)
    desired = work.run()
    problems = _once(work.problems)
    return (None if problems else desired), problems


def _once(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Sorted by place. A mistake that YAML's aliases repeat elsewhere is one."""
    seen: dict[tuple[str, int, int, str], Problem] = {}
    for problem in sorted(set(problems)):
        text = problem.text.partition(": ")[2] or problem.text
        seen.setdefault((problem.file, problem.line, problem.column, text), problem)
    return tuple(seen.values())


def project_of(path: str) -> str:
    """The project of a file that names none: its directory, `shop/db/x.toml` -> `shop-db`; else `default`."""
    directory = posixpath.dirname(path)
    name = re.sub(r"[^a-z0-9_-]", "", directory.lower().replace("/", "-").replace(".", "-")).strip("-_")
    return name[:63] or "default"


class _Work:
    """The state of one call of resolve."""

    def __init__(
        self, files: Mapping[str, bytes], source: str, variables: Mapping[str, str], source_root: str
    ) -> None:
        self.files, self.source, self.variables, self.source_root = files, source, variables, source_root
        self.problems: list[Problem] = []
        self.index = Index()
        self.dotenv: dict[str, dict[str, str]] = {}
        self._further: set[str] = set()  # names that builds give besides
        self.tree = source_root or "/"
        self.profiles: frozenset[str] = frozenset()

    def run(self) -> Desired:
        for path in spec_files(self.files):
            self._read(path)
        images = self._images()
        builder = Builder(self.index, self.files, self.source_root, images, self.problems)
        containers: dict[str, DesiredContainer] = {}
        origins: dict[str, Declared] = {}
        for declared in self._countable():
            for container in builder.build(declared):
                if container.name in containers:
                    other = containers[container.name].place
                    text = f"a replica has the name {container.name!r}, which {other} has too"
                    self.problems.append(declared.problem((), text))
                containers[container.name] = container
                origins[container.name] = declared
        self._cycles()
        self.problems += never_complete(containers, origins)
        self._ports(containers, origins)
        networks, external_networks = self._networks(containers.values())
        self._families(containers, origins, networks)
        volumes, externals = storage.volumes(self.index, self.problems)
        images = self._lock(images)
        return Desired(
            self.source,
            dict(sorted(images.items())),
            networks,
            volumes,
            containers,
            externals,
            external_networks,
            secrets.files(self.index, self.problems),
        )

    def _countable(self) -> Iterator[Declared]:
        """The containers, up to what one machine could ever run."""
        count = 0
        for declared in self.index.all("container"):
            if declared.inactive:
                continue
            if isinstance(declared.model, Container):
                count += replica_count(declared.model) or 1
            if count > MAX_CONTAINERS:
                text = f"more than {MAX_CONTAINERS} containers in this source"
                self.problems.append(declared.problem((), text))
                return
            yield declared

    # ------------------------------------------------------------ reading

    def _read(self, path: str) -> None:
        if posixpath.basename(path).lower() in COMPOSE_FILES:
            hint = "write container.NAME in a file of another name, or exclude it in .steadignore"
            self.problems.append(Problem(path, 1, 1, f"a Compose file: {NOT_YET}", hint))
            return
        documents, problems = parse(path, self.files[path])
        self.problems += problems
        for document in documents:
            variables = {**self._dotenv(posixpath.dirname(path)), **self.variables}
            loaded = load(document, variables)
            self.problems += loaded.problems
            self._declare(document, loaded, variables)

    def _dotenv(self, directory: str) -> dict[str, str]:
        if directory not in self.dotenv:
            path = posixpath.join(directory, ".env")
            values, problems = parse_env(self.files.get(path, b""), self.variables)
            self.problems += [Problem(path, line, column, text) for line, column, text in problems]
            self.dotenv[directory] = values
        return self.dotenv[directory]

    def _declare(self, document: Document, loaded: Loaded, variables: Mapping[str, str]) -> None:
        """Names of a file with problems are declared too: references to them are no further problems."""
        spec = loaded.spec
        named = spec.project if spec is not None else None
        named = named or document.data.get("project")
        project = named if isinstance(named, str) else project_of(document.file)
        for kind in KINDS:
            bodies = getattr(spec, kind) if spec is not None else document.data.get(kind)
            if not isinstance(bodies, dict):
                continue
            for name, model in bodies.items():
                rest = model if spec is not None else None
                sound = None if (kind, name) in loaded.broken else rest
                place = Place(document.file, *document.positions.table((kind, name)))
                declared = Declared(kind, project, name, sound, document, place, rest, variables)
                if isinstance(rest, Container) and not self._is_active(rest):
                    declared.inactive = rest.profiles or ()
                first = self.index.add(declared)
                if first is not None:
                    text = f"{kind} {declared.full!r} is declared twice; it stands in {first.place} too"
                    self.problems.append(Problem(place.file, place.line, place.column, text))

    def _is_active(self, model: Container) -> bool:
        asked = model.profiles or ()
        return not asked or "*" in self.profiles or bool(self.profiles & set(asked))

    # ------------------------------------------------------------ images, networks, volumes

    def _images(self) -> dict[str, DesiredImage]:
        images: dict[str, DesiredImage] = {}
        tagged: dict[str, Declared] = {}
        for declared in self.index.all("image"):
            image = self._image(declared)
            if image is None:
                continue
            declared.resolved = str(image.ref)
            self._tags(declared, image, tagged)
            problem = merge_image(images, image)
            if problem:
                self.problems.append(declared.problem((), problem))
        return images

    def _tags(self, declared: Declared, image: DesiredImage, tagged: dict[str, Declared]) -> None:
        """A further name of what is built is nobody else's."""
        further = tuple(map(str, image.build.tags)) if image.build is not None else ()
        for name in (str(image.ref), *further):
            other = tagged.setdefault(name, declared)
            if other is not declared and (name in further or name in self._further):
                familiar = ImageRef.parse(name).familiar
                text = f"{familiar!r} is a name of image {other.full!r} ({other.place}), too"
                self.problems.append(declared.problem((), text))
        self._further.update(further)

    def _image(self, declared: Declared) -> DesiredImage | None:
        model = declared.model
        if not isinstance(model, Image):
            return None
        if model.build is not None:
            return built_image(declared, self.index, self.tree, self.problems)
        if model.from_ is None:
            self.problems.append(declared.problem((), "'from' or 'build' is missing: which image is it?"))
            return None
        policy = model.pull or PullPolicy("missing")
        return DesiredImage(
            ImageRef.parse(model.from_),
            policy.pull,
            model.platform or "",
            declared.place,
            interval=policy.interval,
        )

    def _lock(self, images: Mapping[str, DesiredImage]) -> dict[str, DesiredImage]:
        """With a lock file, each tag that comes from a registry has a digest in it, or that is a problem."""
        ignored = Ignored(self.files)
        for path in self.files:
            if posixpath.basename(path) == LOCK_FILE and path != LOCK_FILE and is_read(path, ignored):
                text = "a lock file below the root of the source"
                self.problems.append(Problem(path, 1, 1, text, "run stead lock on the source's root"))
        if LOCK_FILE not in self.files:
            return dict(images)
        lock, problems = read_lock(self.files[LOCK_FILE])
        self.problems += problems
        bases = {**lock.digests, **dict.fromkeys(local_names(images.values()), "")}
        locked = {}
        for name, image in images.items():
            locked[name] = image
            if image.build is not None and lock.has_bases:
                made = replace(image.build, locked=tuple(sorted(bases.items())))
                locked[name] = replace(image, build=made)
            if not lockable(image) or problems:
                continue
            if name in lock.digests:
                locked[name] = replace(image, digest=lock.digests[name])
            else:
                at = image.place or Place(LOCK_FILE, 1)
                text = f"image {image.ref.familiar!r} is not in {LOCK_FILE}"
                self.problems.append(Problem(at.file, at.line, at.column, text, "run stead lock"))
        return locked

    def _networks(
        self, containers: Iterable[DesiredContainer]
    ) -> tuple[dict[str, DesiredNetwork], dict[str, Place]]:
        """(networks of this source, external ones), by their names on the machine."""
        networks: dict[str, DesiredNetwork] = {}
        externals: dict[str, Place] = {}
        taken: list[tuple[AnyNetwork, Declared]] = []
        for declared in self.index.all("network"):
            if isinstance(declared.model, Network):
                self.problems += check_external(declared, declared.model)
                if declared.model.external:
                    externals[name_of(self.index, declared.full)] = declared.place
                else:
                    networks[declared.full] = network_of(declared, declared.model, taken, self.problems)
        for container in containers:
            for attachment in container.networks:
                name = attachment.network
                if name not in networks and name not in externals and name.endswith(f"/{DEFAULT_NETWORK}"):
                    network = DesiredNetwork(name, place=container.place)
                    networks[name] = replace(network, fingerprint=network_fingerprint(network))
        return dict(sorted(networks.items())), dict(sorted(externals.items()))

    # ------------------------------------------------------------ checks over all containers

    def _cycles(self) -> None:
        """One problem a cycle, at the depends_on of its first container by name. Depth first, each
        edge once.
        """
        waits = {d.full: d.waits_for for d in self.index.all("container")}
        done: set[str] = set()
        for start in waits:
            trail = {start: iter(waits[start])} if start not in done else {}  # in the order of the walk
            while trail:
                name, following = next(reversed(trail.items()))
                other = next(following, None)
                if other is None:
                    done.add(name)
                    del trail[name]
                elif other in trail:
                    names = list(trail)
                    self._cycle(names[names.index(other) :])
                elif other not in done:
                    trail[other] = iter(waits.get(other, ()))

    def _cycle(self, names: list[str]) -> None:
        first = names.index(min(names))
        names = names[first:] + names[:first]
        declared = self.index.get("container", names[0])
        if declared is not None:
            places = [self.index.get("container", name) for name in names]
            shown = [f"{one.full} ({one.place})" for one in places if one is not None]
            text = f"containers wait for each other: {' -> '.join([*shown, names[0]])}"
            self.problems.append(declared.problem(("depends_on",), text, at_key=True))

    def _families(
        self,
        containers: Mapping[str, DesiredContainer],
        origins: Mapping[str, Declared],
        networks: Mapping[str, DesiredNetwork],
    ) -> None:
        """Ports on addresses of IPv6 lead to an address of IPv6."""
        for name, container in containers.items():
            joined = [networks[item.network] for item in container.networks if item.network in networks]
            if len(joined) < len(container.networks) or any(network.ipv6 for network in joined):
                continue  # what is wrong with a network is its own problem
            for binding in container.ports:
                if ":" in binding.host_ip:
                    text = f"port {binding} is for IPv6, and no network of the container has it"
                    path = origins[name].ports.get(binding, ("ports",))
                    hint = "set enable_ipv6 on its network"
                    self.problems.append(origins[name].problem(path, text, hint))

    def _ports(self, containers: Mapping[str, DesiredContainer], origins: Mapping[str, Declared]) -> None:
        """Fixed ports only: what is random, or has a range to choose from, is chosen when it is made."""
        seen: dict[tuple[str, int], list[tuple[PortBinding, str]]] = {}
        for name, container in containers.items():
            for binding in container.ports:
                key = (binding.protocol, binding.host_port)
                for other, owner in seen.get(key, ()) if binding.is_fixed else ():
                    shared = owner != name and containers[owner].service == container.service
                    if not shared and addresses_meet(binding.host_ip, other.host_ip):
                        who = "this container" if owner == name else f"{owner!r} ({containers[owner].place})"
                        text = (
                            f"host port {binding.host_port}/{binding.protocol} is published by {who} already"
                        )
                        path = origins[name].ports.get(binding, ("ports",))
                        self.problems.append(origins[name].problem(path, text))
                        break
                if binding.is_fixed:
                    seen.setdefault(key, []).append((binding, name))
