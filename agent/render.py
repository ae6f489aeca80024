"""Decisions: Desired -> runtime requests. The only translator between the two vocabularies."""

from __future__ import annotations

import posixpath
from dataclasses import asdict

from runtime import wishes
from runtime.backups.request import BackupRequest
from runtime.build.request import BuildRequest, SecretSource, SshSource
from specs import desired


def network_request(source: str, want: desired.DesiredNetwork) -> wishes.NetworkRequest:
    return wishes.NetworkRequest(
        name=want.name,
        source=source,
        fingerprint=want.fingerprint,
        subnet=want.subnet,
        gateway=want.gateway,
        internal=want.internal,
        mtu=want.mtu,
        labels=want.labels,
        ipv6=want.ipv6,
        subnet6=want.subnet6,
        gateway6=want.gateway6,
        options=wishes.NetworkOptions(
            driver=want.driver,
            parent=want.parent,
            mode=want.mode,
            icc=want.icc,
            masquerade=want.masquerade,
            ip_range=want.ip_range,
            ip_range6=want.ip_range6,
            reserved=want.reserved,
        ),
    )


def volume_request(source: str, want: desired.DesiredVolume) -> wishes.VolumeRequest:
    return wishes.VolumeRequest(
        want.name, source, want.fingerprint, want.labels, want.options, want.keep, want.prune
    )


def backup_request(volume: str, want: desired.DesiredBackup, revision: str) -> BackupRequest:
    return BackupRequest(volume, want.to, want.quiesce, want.keep, revision)


def build_request(want: desired.DesiredImage) -> BuildRequest:
    """How `want` is built, and called. Its platform is the only one."""
    build = want.build
    assert build is not None
    return BuildRequest(
        context=build.context,
        dockerfile=_dockerfile(build),
        dockerfile_name=build.name,
        dockerfile_text=build.inline.encode() if build.inline else None,
        target=build.target,
        args=dict(build.args),
        labels=dict(build.labels),
        names=(want.ref, *build.tags),
        contexts=dict(build.contexts),
        secrets=tuple(_secret(item) for item in build.secrets),
        ssh=tuple(SshSource(id, socket) for id, socket in build.ssh),
        no_cache=build.no_cache,
        pull=build.pull,
        platforms=(want.platform,) if want.platform else (),
        network=build.network or "default",
        extra_hosts=build.extra_hosts,
        shm_size=build.shm_size,
        ulimits=build.ulimits,
        cache_from=build.cache_from,
        inline_cache=build.inline_cache,
        locked=None if build.locked is None else dict(build.locked),
    )


def _dockerfile(build: desired.DesiredBuild) -> str:
    """Within the context, or the absolute path of one that lies beside it."""
    if not build.dockerfile.startswith("../"):
        return build.dockerfile
    return posixpath.normpath(posixpath.join(build.context, build.dockerfile))


def _secret(item: desired.BuildSecret) -> SecretSource:
    if item.file:
        return SecretSource(item.id, path=item.file)
    return SecretSource(item.id, value=item.value.encode("utf-8", "surrogateescape"))


def container_request(
    source: str, want: desired.DesiredContainer, image: desired.DesiredImage
) -> wishes.ContainerRequest:
    return wishes.ContainerRequest(
        name=want.name,
        source=source,
        identity=want.identity,
        adjustable=want.adjustable,
        facets=want.facets,
        image=image.ref,
        image_id=want.image_id,
        drain=want.update.drain,
        project=want.project,
        command=want.command,
        entrypoint=want.entrypoint,
        environment=want.environment,
        working_dir=want.working_dir,
        user=want.user,
        group_add=want.group_add,
        hostname=want.hostname,
        domainname=want.domainname,
        labels=want.labels,
        annotations=want.annotations,
        ports=want.ports,
        publish_all=want.publish_all,
        service=want.service,
        expose=want.expose,
        mounts=want.mounts,
        networks=tuple(_attachment(item) for item in want.networks),
        network_mode=want.network_mode,
        dns=want.dns,
        dns_search=want.dns_search,
        dns_opt=want.dns_opt,
        extra_hosts=want.extra_hosts,
        probe=_probe(want.probe),
        startup=_probe(want.startup),
        readiness=_probe(want.readiness),
        restart=_restart(want.restart),
        stop_signal=want.stop_signal,
        stop_grace_period=want.stop_grace_period,
        read_only=want.read_only,
        privileged=want.privileged,
        cap_add=want.cap_add,
        cap_drop=want.cap_drop,
        no_new_privileges=want.no_new_privileges,
        seccomp_unconfined=want.seccomp_unconfined,
        seccomp_profile=want.seccomp_profile,
        apparmor=want.apparmor,
        unmasked=want.unmasked,
        userns=want.userns,
        userns_size=want.userns_size,
        devices=tuple((item.source, item.target, item.permissions) for item in want.devices),
        ulimits=tuple((item.name, item.soft, item.hard) for item in want.ulimits),
        sysctls=want.sysctls,
        shm_size=want.shm_size,
        pid_mode=want.pid_mode,
        ipc_mode=want.ipc_mode,
        uts_mode=want.uts_mode,
        cgroup_mode=want.cgroup_mode,
        init=want.init,
        oom_score_adj=want.oom_score_adj,
        device_rules=want.device_rules,
        volumes_from=want.volumes_from,
        files=tuple(_file(item) for item in want.files),
        tty=want.tty,
        stdin_open=want.stdin_open,
        log_max_size=want.logging.max_size,
        log_max_files=want.logging.max_files,
        logger=wishes.LoggerRequest(**asdict(want.logger)),
        limits=_limits(want.limits),
    )


def _file(item: desired.FileMount) -> wishes.FileRequest:
    return wishes.FileRequest(item.kind, item.name, item.target, item.uid, item.gid, item.mode, item.digest)


def _attachment(item: desired.Attachment) -> wishes.Attachment:
    return wishes.Attachment(
        item.network,
        item.aliases,
        item.ipv4_address,
        item.mac_address,
        item.ipv6_address,
        item.gw_priority,
        item.interface_name,
        item.link_local_ips,
    )


def _probe(probe: desired.Probe | None) -> wishes.ProbeRequest | None:
    if probe is None:
        return None
    return wishes.ProbeRequest(
        exec=probe.exec,
        shell=probe.shell,
        http=probe.http,
        tcp=probe.tcp,
        disabled=probe.disabled,
        interval=probe.interval,
        timeout=probe.timeout,
        retries=probe.retries,
        start_period=probe.start_period,
        start_interval=probe.start_interval,
        on_failure=probe.on_failure,
        given=probe.given,
        method=probe.method,
        headers=probe.headers,
        expect_status=probe.expect_status,
        tls_verify=probe.tls_verify,
    )


def _restart(restart: desired.Restart) -> wishes.RestartRequest:
    return wishes.RestartRequest(
        restart.policy, restart.max_retries, restart.initial, restart.max, restart.reset_after
    )


def _limits(limits: desired.Limits) -> wishes.LimitsRequest:
    return wishes.LimitsRequest(
        cpus=limits.cpus,
        cpu_weight=limits.cpu_weight,
        cpuset=limits.cpuset,
        memory=limits.memory,
        memory_reservation=limits.memory_reservation,
        memory_swap=limits.memory_swap,
        pids=limits.pids,
        io_weight=limits.io_weight,
        io=tuple(
            wishes.IoLimit(item.device, item.read_bps, item.write_bps, item.read_iops, item.write_iops)
            for item in limits.io
        ),
        hugepages=limits.hugepages,
        swappiness=limits.swappiness,
    )
