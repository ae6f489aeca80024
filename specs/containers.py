"""Decisions: one [container.NAME] -> its DesiredContainers (one, or a replica each), references resolved."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace

from specs import dependencies, limits, loggers, probes, secrets, sharing, updates
from specs.declared import Declared, Index
from specs.desired import (
    Attachment,
    DesiredContainer,
    DesiredImage,
    Device,
    Restart,
    Ulimit,
)
from specs.documents import Container, EnvFile, LongPort
from specs.fingerprint import fingerprints
from specs.interpolate import parse_env, parse_raw
from specs.memberships import Asked, memberships
from specs.mountings import MountReader
from specs.policies import UlimitRange
from specs.positions import Path
from specs.problems import Problem
from specs.pulls import PullPolicy, merge_image
from specs.replicas import replica_count
from specs.security import security
from specs.shapes import NOT_YET
from specs.values import ImageRef, MountPoint, PortBinding, bindings

#: Which files of a source are read besides specs.
_READ = (
    "files that are read are named .env, *.env, *.txt, *.conf, *.cfg, *.properties, *.vars, *.list, *.age, "
    "and have at most 1 MiB"
)


class Builder:
    """Holds what every container may refer to. Problems are added to the given list."""

    def __init__(
        self,
        index: Index,
        files: Mapping[str, bytes],
        source_root: str,
        images: dict[str, DesiredImage],
        problems: list[Problem],
    ) -> None:
        self.index, self.files = index, files
        self.source_root, self.images, self.problems = source_root, images, problems
        self.addresses: Asked = {}

    def build(self, declared: Declared) -> list[DesiredContainer]:
        """Nothing where the container has problems of its own; then only what it refers to is looked up."""
        if isinstance(declared.model, Container):
            return _Build(self, declared, declared.model).run()
        if isinstance(declared.rest, Container):
            _Build(self, declared, declared.rest).look_up()
        return []


class _Build:
    def __init__(self, around: Builder, declared: Declared, model: Container) -> None:
        self.around, self.declared, self.model = around, declared, model
        self.index = around.index

    def wrong(self, path: Path, text: str, hint: str = "", *, at_key: bool = False) -> None:
        self.around.problems.append(self.declared.problem(path, text, hint, at_key=at_key))

    def look_up(self) -> None:
        """References only."""
        self._environment()
        self._mounts()
        self._networks()
        dependencies.dependencies(self.declared, self.model, self.index, self.wrong)
        secrets.file_mounts(self.declared, self.model, self.index, set(), self.wrong)

    def run(self) -> list[DesiredContainer]:
        model = self.model
        sharing.check(model, self.wrong)
        image, platform = self._image()
        walls = security(model.security_opt or (), self._read, self.wrong, self.around.problems.extend)
        userns, userns_size = model.userns or model.userns_mode or ("", 0)
        update, way_back = updates.of(model, self.wrong)
        container = DesiredContainer(
            name=self.declared.full,
            image=image,
            project=self.declared.project,
            command=model.command,
            entrypoint=model.entrypoint,
            environment=self._environment(),
            working_dir=model.working_dir or "",
            user=model.user or "",
            group_add=model.group_add or (),
            hostname=model.hostname or "",
            domainname=model.domainname or "",
            labels=self._labels(),
            annotations=model.annotations or {},
            ports=self._ports(),
            publish_all=bool(model.publish_all),
            service=self.declared.full,
            update=update,
            way_back=way_back,
            expose=model.expose or (),
            mounts=self._mounts(),
            networks=self._networks(),
            network_mode=sharing.network_mode(self.declared, model, self.index, self.wrong),
            dns=model.dns or (),
            dns_search=model.dns_search or (),
            dns_opt=model.dns_opt or (),
            extra_hosts=model.extra_hosts or (),
            probe=probes.liveness(model.healthcheck, self.wrong),
            startup=probes.phase(model.healthcheck, "startup", self.wrong),
            readiness=probes.phase(model.healthcheck, "readiness", self.wrong),
            restart=self._restart(),
            stop_signal=model.stop_signal or "",
            stop_grace_period=10.0 if model.stop_grace_period is None else model.stop_grace_period,
            depends_on=dependencies.dependencies(self.declared, model, self.index, self.wrong),
            read_only=bool(model.read_only),
            privileged=bool(model.privileged),
            cap_add=model.cap_add or (),
            cap_drop=model.cap_drop or (),
            no_new_privileges=walls.no_new_privileges,
            seccomp_unconfined=walls.seccomp_unconfined,
            seccomp_profile=walls.seccomp_profile,
            apparmor=walls.apparmor,
            unmasked=walls.unmasked,
            userns=userns,
            userns_size=userns_size,
            devices=tuple(Device(*one) for one in model.devices or ()),
            ulimits=self._ulimits(),
            sysctls=model.sysctls or {},
            shm_size=model.shm_size or 0,
            pid_mode=sharing.mode("pid", self.declared, model, self.index, self.wrong),
            ipc_mode=sharing.mode("ipc", self.declared, model, self.index, self.wrong),
            uts_mode=sharing.mode("uts", self.declared, model, self.index, self.wrong),
            cgroup_mode="host" if model.cgroup == "host" else "",
            init=bool(model.init),
            oom_score_adj=model.oom_score_adj or 0,
            device_rules=model.device_cgroup_rules or (),
            volumes_from=sharing.volumes_from(self.declared, model, self.index, self.wrong),
            tty=bool(model.tty),
            stdin_open=bool(model.stdin_open),
            logging=loggers.limits(model.logging, self.wrong),
            logger=loggers.logger(model.logging, self.wrong),
            limits=limits.of(model, self.wrong),
            job=dependencies.job(model, self.wrong),
            desired=model.desired or "running",
            suspend=model.suspend or "",
            place=self.declared.place,
        )
        taken = {mount.target for mount in container.mounts}
        files = secrets.file_mounts(self.declared, model, self.index, taken, self.wrong)
        if files:
            container = replace(container, files=files)
        return [self._sealed(one, platform) for one in self._replicas(container)]

    @staticmethod
    def _sealed(container: DesiredContainer, platform: str) -> DesiredContainer:
        identity, adjustable, facets = fingerprints(container, image=container.image, platform=platform)
        return replace(container, identity=identity, adjustable=adjustable, facets=facets)

    # ------------------------------------------------------------ image, replicas

    def _image(self) -> tuple[str, str]:
        model = self.model
        table = self.index.get("image", f"{self.declared.project}/{model.image}")
        if table is not None and not table.resolved:
            return "", ""  # that table has its own problem
        ref = ImageRef.parse(table.resolved if table is not None else model.image)
        known = self.around.images.get(str(ref))
        if known is not None and known.build is not None:
            return self._built(known)
        policy = model.pull_policy or PullPolicy(known.pull if known else "missing")
        image = DesiredImage(
            ref, policy.pull, model.platform or "", self.declared.place, interval=policy.interval
        )
        problem = merge_image(self.around.images, image)
        if problem:
            self.wrong(("platform",), problem)
        return str(ref), model.platform or (known.platform if known else "")

    def _built(self, image: DesiredImage) -> tuple[str, str]:
        """An image of [image.NAME] build: nothing about it comes from a registry."""
        policy, platform = self.model.pull_policy, self.model.platform or ""
        if policy is not None and (policy.interval or policy.pull == "always"):
            text = f"image {image.ref.familiar!r} is built ({image.place}), never pulled"
            self.wrong(("pull_policy",), text, "leave pull_policy out")
        if platform and platform != image.platform:
            text = f"image {image.ref.familiar!r} is built for {image.platform or 'this machine'}"
            self.wrong(("platform",), text, "write the platform in [image.NAME]")
        return str(image.ref), image.platform

    def _replicas(self, container: DesiredContainer) -> list[DesiredContainer]:
        count = replica_count(self.model, self.wrong)
        if count is None:
            return [container]
        fixed = [
            one.network
            for one in container.networks
            if one.ipv4_address or one.ipv6_address or one.mac_address or one.link_local_ips
        ]
        if fixed and count > 1:
            self.wrong(
                ("networks",), f"{count} replicas cannot share one address in {fixed[0]!r}", at_key=True
            )
        alias = self.declared.name
        networks = tuple(
            replace(one, aliases=one.aliases if alias in one.aliases else (alias, *one.aliases))
            for one in container.networks
        )
        return [replace(container, name=f"{container.name}-{n + 1}", networks=networks) for n in range(count)]

    # ------------------------------------------------------------ environment

    def _environment(self) -> dict[str, str]:
        values: dict[str, str] = {}
        for number, item in enumerate(self.model.env_file or ()):
            values.update(self._env_file(number, item))
        for key, value in (self.model.environment or {}).items():
            if value is not None:
                values[key] = value
            elif key in self.declared.variables:
                values[key] = self.declared.variables[key]
        return values

    def _env_file(self, number: int, item: str | EnvFile) -> dict[str, str]:
        written, required = (item, True) if isinstance(item, str) else (item.path, item.required is not False)
        raw = self.declared.document.data["container"][self.declared.name].get("env_file")
        path: Path = ("env_file", number) if isinstance(raw, list) else ("env_file",)
        where = self._inside(written)
        if where is None:
            self.wrong(
                path, f"env_file {written!r} is not a file of the source", "paths are relative to this file"
            )
            return {}
        content = self.around.files.get(where)
        if content is None:
            if required:
                self.wrong(path, f"cannot read env_file {where!r}: no such file in the source", _READ)
            return {}
        raw_lines = not isinstance(item, str) and item.format == "raw"
        if raw_lines:
            values, problems = parse_raw(content)
        else:
            values, problems = parse_env(content, self.declared.variables)
        self.around.problems += [Problem(where, line, column, text) for line, column, text in problems]
        return values

    def _read(self, written: str) -> tuple[str, bytes | None] | None:
        """(path in the source, its content if it is there) of what this file names; None: it lies outside."""
        where = self._inside(written)
        return None if where is None else (where, self.around.files.get(where))

    def _labels(self) -> dict[str, str]:
        """Those of its label_file, and its own, which win."""
        values: dict[str, str] = {}
        for number, written in enumerate(self.model.label_file or ()):
            raw = self.declared.document.data["container"][self.declared.name].get("label_file")
            path: Path = ("label_file", number) if isinstance(raw, list) else ("label_file",)
            where = self._inside(written)
            content = None if where is None else self.around.files.get(where)
            if where is None or content is None:
                text = f"cannot read label_file {where or written!r}: no such file in the source"
                self.wrong(path, text, _READ)
                continue
            found, problems = parse_env(content, self.declared.variables)
            self.around.problems += [Problem(where, line, column, text) for line, column, text in problems]
            values.update(found)
        return {**values, **(self.model.labels or {})}

    def _inside(self, written: str) -> str | None:
        """The path in the source that `written` in this file means; None when it leaves the source."""
        if written.startswith("/"):
            return None
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.declared.document.file), written))
        return None if path == ".." or path.startswith("../") else path

    # ------------------------------------------------------------ ports, mounts

    def _ports(self) -> tuple[PortBinding, ...]:
        out: list[PortBinding] = []
        for number, item in enumerate(self.model.ports or ()):
            found = self._long_port(number, item) if isinstance(item, LongPort) else item
            out += found
            for binding in found:
                self.declared.ports[binding] = ("ports", number)
        if self.model.network_mode in ("host", "none"):
            for key in ("ports",) * bool(out) + ("publish_all",) * bool(self.model.publish_all):
                text = f"ports cannot be published with network_mode {self.model.network_mode!r}"
                self.wrong((key,), text, at_key=True)
        return tuple(out)

    def _long_port(self, number: int, item: LongPort) -> tuple[PortBinding, ...]:
        container, protocol = range(item.target, item.target + 1), item.protocol or "tcp"
        text = f"{item.published}:{item.target}"
        try:
            return bindings(item.host_ip or "", item.published or "", container, protocol, text)
        except ValueError as error:
            self.wrong(("ports", number, "published"), str(error))
            return ()

    def _mounts(self) -> tuple[MountPoint, ...]:
        return MountReader(
            self.model,
            self.declared,
            self.index,
            self.around.source_root,
            self.wrong,
            self._inside,
            self._mounted,
        ).run()

    def _mounted(self, path: Path, name: str) -> str:
        """The canonical reference of an image that is mounted; empty where it has a problem."""
        table = self.index.get("image", f"{self.declared.project}/{name}")
        if table is not None:
            return table.resolved
        try:
            ref = ImageRef.parse(name)
        except ValueError as error:
            self.wrong((*path, "source"), str(error))
            return ""
        known = self.around.images.get(str(ref))
        if known is not None and known.build is not None:
            return str(ref)
        problem = merge_image(self.around.images, DesiredImage(ref, "missing", "", self.declared.place))
        if problem:
            self.wrong((*path, "source"), problem)
        return str(ref)

    # ------------------------------------------------------------ networks, dependencies

    def _networks(self) -> tuple[Attachment, ...]:
        return memberships(self.declared, self.model, self.index, self.around.addresses, self.wrong)

    # ------------------------------------------------------------ conduct

    def _restart(self) -> Restart:
        model, default = self.model, Restart()
        policy, retries = model.restart or ("no" if model.schedule else default.policy, 0)
        initial, reset_after = default.initial, default.reset_after
        deploy = model.deploy.restart_policy if model.deploy else None
        if deploy is not None:
            if model.restart is not None:
                self.wrong(
                    ("deploy", "restart_policy"), "`restart` says the same; leave one out", at_key=True
                )
            policy = {"none": "no", "on-failure": "on-failure"}.get(deploy.condition or "any", "always")
            retries = deploy.max_attempts or 0
            initial, reset_after = deploy.delay or initial, deploy.window or reset_after
            if retries and policy == "always":
                text = f"max_attempts without condition on-failure: {NOT_YET}"
                self.wrong(("deploy", "restart_policy", "max_attempts"), text, at_key=True)
        backoff = model.restart_backoff
        longest = default.max
        if backoff is not None:
            initial, reset_after = backoff.initial or initial, backoff.reset_after or reset_after
            longest = backoff.max or max(longest, initial)
            if longest < initial:
                self.wrong(("restart_backoff", "max"), "max is shorter than initial")
        return Restart(policy, retries, initial, max(longest, initial), reset_after)

    def _ulimits(self) -> tuple[Ulimit, ...]:
        out = []
        for name, value in sorted((self.model.ulimits or {}).items()):
            soft, hard = (value.soft, value.hard) if isinstance(value, UlimitRange) else (value, value)
            if hard != -1 and (soft == -1 or soft > hard):
                self.wrong(("ulimits", name), f"soft limit {soft} is above the hard limit {hard}")
            out.append(Ulimit(name, soft, hard))
        return tuple(out)
