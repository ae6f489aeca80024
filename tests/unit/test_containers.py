"""Every form in which a field of a container may be written means what Compose means by it."""

from __future__ import annotations

import pytest

from specs.desired import (
    Attachment,
    Dependency,
    DesiredJob,
    Device,
    IoLimit,
    Limits,
    Logger,
    LogLimits,
    Probe,
    Restart,
    Ulimit,
)
from specs.schedule import Schedule
from specs.values import MountPoint, PortBinding
from tests.spec_text import container, desired_of, read

MIB = 1 << 20


@pytest.mark.parametrize(
    ("lines", "field", "expected"),
    [
        ("command = \"sh -c 'a b'\"", "command", ("sh", "-c", "a b")),
        ('command = ["a", 1, true]', "command", ("a", "1", "true")),
        ("command = []", "command", ()),
        ("", "command", None),
        ('entrypoint = "/x"', "entrypoint", ("/x",)),
        (
            'environment = { A = 1, B = "x", C = true, D = 1.50 }',
            "environment",
            {"A": "1", "B": "x", "C": "true", "D": "1.50"},
        ),
        ('environment = ["A=1=2", "B=", "HOME"]', "environment", {"A": "1=2", "B": ""}),
        ('environment = ["GIVEN"]', "environment", {"GIVEN": "yes"}),
        ('working_dir = "/a/../b/"', "working_dir", "/b"),
        ("user = 1000", "user", "1000"),
        ('group_add = [1, "video"]', "group_add", ("1", "video")),
        ('hostname = "web-1"', "hostname", "web-1"),
        ('domainname = "example.org"', "domainname", "example.org"),
        ('labels = ["a", "b=c"]', "labels", {"a": "", "b": "c"}),
        ('annotations = { "org.x" = 1 }', "annotations", {"org.x": "1"}),
        ('ports = ["80:81"]', "ports", (PortBinding("", 80, 81, "tcp"),)),
        ('ports = ["127.0.0.1:80:81/udp"]', "ports", (PortBinding("127.0.0.1", 80, 81, "udp"),)),
        ('ports = ["80-81:90-91"]', "ports", (PortBinding("", 80, 90), PortBinding("", 81, 91))),
        (
            'ports = [{ target = 81, published = "80", protocol = "udp", host_ip = "10.0.0.1", '
            'mode = "host" }]',
            "ports",
            (PortBinding("10.0.0.1", 80, 81, "udp"),),
        ),
        ('expose = [80, "53/udp", "90-91"]', "expose", ("80/tcp", "53/udp", "90-91/tcp")),
        ('tmpfs = "/run"', "mounts", (MountPoint("tmpfs", "", "/run"),)),
        (
            'tmpfs = ["/run:size=1m,mode=755,ro"]',
            "mounts",
            (MountPoint("tmpfs", "", "/run", True, tmpfs_size=MIB, tmpfs_mode=0o755),),
        ),
        (
            'volumes = ["./d:/d:ro"]',
            "mounts",
            (MountPoint("bind", "/src/d", "/d", True, create_source=True),),
        ),
        (
            'volumes = ["/h//x:/d:rslave"]',
            "mounts",
            (MountPoint("bind", "/h/x", "/d", propagation="rslave", create_source=True),),
        ),
        (
            'volumes = [{ type = "bind", source = "d", target = "/d" }]',
            "mounts",
            (MountPoint("bind", "/src/d", "/d"),),
        ),
        (
            'volumes = [{ type = "bind", source = "/d", target = "/d", bind = { create_host_path '
            '= true, propagation = "shared" } }]',
            "mounts",
            (MountPoint("bind", "/d", "/d", propagation="shared", create_source=True),),
        ),
        (
            'volumes = [{ type = "tmpfs", target = "/d", tmpfs = { size = "1m", mode = 0o700 } }]',
            "mounts",
            (MountPoint("tmpfs", "", "/d", tmpfs_size=MIB, tmpfs_mode=0o700),),
        ),
        ("", "networks", (Attachment("p/default"),)),
        ('network_mode = "host"', "networks", ()),
        ('network_mode = "none"', "network_mode", "none"),
        ('dns = "10.0.0.1"', "dns", ("10.0.0.1",)),
        ('dns = ["10.0.0.1", "fd00::1"]', "dns", ("10.0.0.1", "fd00::1")),
        ('dns_search = "a.b"', "dns_search", ("a.b",)),
        ('dns_opt = ["ndots:2"]', "dns_opt", ("ndots:2",)),
        (
            'extra_hosts = ["a:10.0.0.1", "b=::1", "c:host-gateway"]',
            "extra_hosts",
            (("a", "10.0.0.1"), ("b", "::1"), ("c", "host-gateway")),
        ),
        (
            'extra_hosts = { a = ["10.0.0.1", "10.0.0.2"] }',
            "extra_hosts",
            (("a", "10.0.0.1"), ("a", "10.0.0.2")),
        ),
        ("", "restart", Restart()),
        ('restart = "no"', "restart", Restart("no")),
        ("restart = false", "restart", Restart("no")),
        ('restart = "on-failure:3"', "restart", Restart("on-failure", 3)),
        (
            'restart_backoff = { initial = "1s", max = "5m", reset_after = "1m30s" }',
            "restart",
            Restart("always", 0, 1.0, 300.0, 90.0),
        ),
        (
            'deploy = { restart_policy = { condition = "on-failure", delay = "5s", max_attempts '
            '= 3, window = "2m" } }',
            "restart",
            Restart("on-failure", 3, 5.0, 60.0, 120.0),
        ),
        ('stop_signal = "quit"', "stop_signal", "SIGQUIT"),
        ("stop_signal = 15", "stop_signal", "SIGTERM"),
        ('stop_grace_period = "1m30s"', "stop_grace_period", 90.0),
        ("read_only = true", "read_only", True),
        ('read_only = "${YES}"', "read_only", True),
        (
            'cap_add = ["net_admin", "CAP_SYS_TIME", "all"]',
            "cap_add",
            ("CAP_NET_ADMIN", "CAP_SYS_TIME", "ALL"),
        ),
        ('security_opt = ["no-new-privileges:true"]', "no_new_privileges", True),
        ('security_opt = ["seccomp=unconfined"]', "seccomp_unconfined", True),
        ('security_opt = ["seccomp:unconfined", "seccomp=unconfined"]', "seccomp_unconfined", True),
        ('security_opt = ["seccomp=builtin", "label:disable"]', "seccomp_unconfined", False),
        ('security_opt = ["systempaths=unconfined"]', "unmasked", True),
        ('security_opt = ["apparmor:unconfined"]', "apparmor", "unconfined"),
        ('security_opt = ["apparmor=web-1"]', "apparmor", "web-1"),
        ('devices = ["/dev/fuse"]', "devices", (Device("/dev/fuse", "/dev/fuse", "rwm"),)),
        ('devices = ["/dev/sda:/dev/xvda:r"]', "devices", (Device("/dev/sda", "/dev/xvda", "r"),)),
        (
            'devices = [{ source = "/dev/fuse", permissions = "rw" }]',
            "devices",
            (Device("/dev/fuse", "/dev/fuse", "rw"),),
        ),
        (
            "ulimits = { nofile = 99, locks = 7, core = { soft = 0, hard = -1 } }",
            "ulimits",
            (Ulimit("core", 0, -1), Ulimit("locks", 7, 7), Ulimit("nofile", 99, 99)),
        ),
        ('sysctls = ["net.core.somaxconn=1024"]', "sysctls", {"net.core.somaxconn": "1024"}),
        (
            'sysctls = { "net/ipv4/ip_forward" = 1, "kernel.shmmax" = 5 }',
            "sysctls",
            {"net.ipv4.ip_forward": "1", "kernel.shmmax": "5"},
        ),
        ('shm_size = "1gb"', "shm_size", 1 << 30),
        ('pid = "host"', "pid_mode", "host"),
        ('ipc = "private"', "ipc_mode", ""),
        ('uts = "host"', "uts_mode", "host"),
        ("tty = true", "tty", True),
        ("stdin_open = true", "stdin_open", True),
        (
            'logging = { driver = "journald", options = { tag = "{{.Name}}", mode = "non-blocking" } }',
            "logger",
            Logger("journald", "{{.Name}}", "non-blocking", MIB),
        ),
        (
            'logging = { driver = "syslog", options = { syslog-address = "udp://[::1]", '
            'syslog-facility = "local7", syslog-format = "rfc5424" } }',
            "logger",
            Logger("syslog", address="udp://[::1]:514", facility=23, format="rfc5424"),
        ),
        ('logging = { driver = "syslog" }', "logger", Logger("syslog", address="unix:///dev/log")),
        ('logging = { driver = "none" }', "logger", Logger("none")),
        ('logging = { options = { mode = "non-blocking", max-buffer-size = "4m" } }', "logger", Logger()),
        (
            'logging = { driver = "json-file", options = { max-size = "1m", max-file = "5" } }',
            "logging",
            LogLimits(MIB, 5),
        ),
        (
            'cpus = "0.5"\ncpu_weight = 200\ncpuset = "0-1,3"\npids = 9\nio_weight = 10',
            "limits",
            Limits(0.5, 200, "0-1,3", pids=9, io_weight=10),
        ),
        (
            'memory = "64m"\nmemory_reservation = "32MiB"\nmemory_swap = -1',
            "limits",
            Limits(memory=64 * MIB, memory_reservation=32 * MIB, memory_swap=-1),
        ),
        (
            'deploy = { resources = { limits = { cpus = 2, memory = "1g", pids = 5 }, '
            'reservations = { memory = "8m" } } }',
            "limits",
            Limits(2.0, memory=1 << 30, memory_reservation=8 * MIB, pids=5),
        ),
        (
            'io = [{ device = "8:0", read_bps = "1m", write_iops = 5 }]',
            "limits",
            Limits(io=(IoLimit("8:0", read_bps=MIB, write_iops=5),)),
        ),
        ('desired = "stopped"', "desired", "stopped"),
        ('suspend = "moving"', "suspend", "moving"),
        ('healthcheck = { test = "true" }', "probe", Probe(shell="true")),
        (
            'healthcheck = { test = ["CMD", "a", "b"], interval = "1s", timeout = "500ms", '
            'retries = 1, start_period = "2s", start_interval = "1s" }',
            "probe",
            Probe(
                exec=("a", "b"), interval=1.0, timeout=0.5, retries=1, start_period=2.0, start_interval=1.0
            ),
        ),
        (
            'healthcheck = { test = ["CMD-SHELL", "a | b"], on_failure = "none" }',
            "probe",
            Probe(shell="a | b", on_failure="none"),
        ),
        ('healthcheck = { http = "http://:80/x" }', "probe", Probe(http="http://:80/x")),
        ('healthcheck = { tcp = ":80" }', "probe", Probe(tcp=":80")),
        (
            'healthcheck = { interval = "1s", on_failure = "none" }',
            "probe",
            Probe(interval=1.0, on_failure="none", given=("interval", "on_failure")),
        ),
        (
            'healthcheck = { http = "https://:80/x", method = "HEAD", headers = { Host = "a" }, '
            'expect_status = ["200-299", 401], tls_verify = true }',
            "probe",
            Probe(
                http="https://:80/x",
                method="HEAD",
                headers=(("Host", "a"),),
                expect_status="200-299,401",
                tls_verify=True,
            ),
        ),
        ('healthcheck.readiness = { tcp = ":80", retries = 1 }', "readiness", Probe(tcp=":80", retries=1)),
        ('healthcheck.readiness = { tcp = ":80" }', "probe", None),
        ('healthcheck.startup = { test = "x", interval = "1s" }', "startup", Probe(shell="x", interval=1.0)),
        ('healthcheck = { test = ["NONE"] }', "probe", Probe(disabled=True)),
        ("healthcheck = { disable = true }", "probe", Probe(disabled=True)),
        ("healthcheck = { disable = false }", "probe", None),
        ('userns = "host"\nuserns_mode = "host"', "userns", ""),
        ('userns_mode = "auto"', "userns", "auto"),
        ('userns = "auto"', "userns_size", 65536),
        ('userns = "auto:size=1000"', "userns_size", 1000),
        ("init = false\nsecrets = []\nx-mine = 3", "privileged", False),
    ],
)
def test_a_field_means(lines: str, field: str, expected: object) -> None:
    found = getattr(container(lines, GIVEN="yes", YES="true"), field)
    assert found == expected


VOLUME = (
    '[volume.v]\n[network.n]\nsubnet = "10.1.0.0/24"\n[container.d]\nimage = "a"\n'
    'restart = "no"\n[container.e]\nimage = "a"\nreplicas = 2'
)


@pytest.mark.parametrize(
    ("lines", "field", "expected"),
    [
        ('volumes = ["v:/d:nocopy"]', "mounts", (MountPoint("volume", "p/v", "/d", nocopy=True),)),
        (
            'volumes = [{ type = "volume", source = "p/v", target = "/d", read_only = true, '
            "volume = { nocopy = true } }]",
            "mounts",
            (MountPoint("volume", "p/v", "/d", True, True),),
        ),
        ('networks = ["n", "default"]', "networks", (Attachment("p/n"), Attachment("p/default"))),
        (
            'networks = { n = { aliases = ["x"], ipv4_address = "10.1.0.9", mac_address = '
            '"02-42-AC-11-65-43" } }',
            "networks",
            (Attachment("p/n", ("x",), "10.1.0.9", "02:42:ac:11:65:43"),),
        ),
        ('depends_on = ["d"]', "depends_on", (Dependency("p/d", "started"),)),
        ("depends_on = { d = { restart = true } }", "depends_on", (Dependency("p/d", restart=True),)),
        ('network_mode = "container:d"', "depends_on", (Dependency("p/d"),)),
        ('schedule = "@daily"', "restart", Restart("no")),
        ('schedule = "@daily"', "job", DesiredJob(Schedule.parse("@daily"))),
        (
            'schedule = { cron = "0 3 * * *", time_zone = "UTC", concurrency_policy = "queue", '
            'deadline = "1h", retries = 2, retry_delay = "1m", history = 5, catch_up = "skip" }',
            "job",
            DesiredJob(Schedule.parse("CRON_TZ=UTC 0 3 * * *"), "queue", 3600.0, 2, 60.0, 5, "skip"),
        ),
        ('depends_on = { d = "healthy" }', "depends_on", (Dependency("p/d", "healthy"),)),
        (
            'depends_on = { d = { condition = "service_completed_successfully", required = false } }',
            "depends_on",
            (Dependency("p/d", "completed", required=False),),
        ),
        ("depends_on = { nobody = { required = false } }", "depends_on", ()),
        ('depends_on = ["e"]', "depends_on", (Dependency("p/e-1"), Dependency("p/e-2"))),
    ],
)
def test_a_reference_means(lines: str, field: str, expected: object) -> None:
    assert getattr(container(lines, around=VOLUME), field) == expected


@pytest.mark.parametrize("count", ["replicas = 2", "scale = 2", "deploy = { replicas = 2 }"])
def test_replicas_have_numbers_and_one_common_name(count: str) -> None:
    desired = desired_of({"c.toml": f'[container.web]\nimage = "a"\n{count}\n'})
    assert sorted(desired.containers) == ["default/web-1", "default/web-2"]
    assert {one.networks[0].aliases for one in desired.containers.values()} == {("web",)}


def test_an_image_of_the_project_is_meant_before_a_reference() -> None:
    files = {
        "a.toml": '[image.web]\nfrom = "host:5000/x@sha256:' + "0" * 64 + '"\n[container.c]\nimage = "web"\n'
    }
    assert desired_of(files).containers["default/c"].image == f"host:5000/x@sha256:{'0' * 64}"
    assert (
        desired_of({"a.toml": '[container.c]\nimage = "web"\n'}).containers["default/c"].image
        == "docker.io/library/web:latest"
    )


@pytest.mark.parametrize(
    ("first", "second", "policy"),
    [
        ("never", "missing", "missing"),
        ("missing", "always", "always"),
        ("if_not_present", "never", "missing"),
    ],
)
def test_of_two_pull_policies_the_more_eager_one_holds(first: str, second: str, policy: str) -> None:
    text = "".join(
        f'[container.{p}{n}]\nimage = "a"\npull_policy = "{p}"\n' for n, p in enumerate((first, second))
    )
    (image,) = desired_of({"a.toml": text}).images.values()
    assert image.pull == policy


def test_env_files_lie_beside_the_spec_and_environment_wins_over_them() -> None:
    files = {
        "app/c.toml": (
            '[container.c]\nimage = "a"\n'
            'env_file = ["one.env", { path = "../two.env" }, { path = "no.env", required = false }]\n'
            'environment = { C = "spec" }\n'
        ),
        "app/one.env": "A=1\nB=1\nC=1\n",
        "two.env": "B=$BASE\n",
        "app/.env": "BASE=dotenv\n",
    }
    found = desired_of(files).containers["app/c"].environment
    assert found == {"A": "1", "B": "dotenv", "C": "spec"}


def test_yaml_and_toml_say_the_same() -> None:
    toml = (
        '[container.c]\nimage = "a"\nports = ["22:22"]\nenvironment = { A = "NO", V = 1.10 }\n'
        'healthcheck = { test = ["CMD", "x"], retries = 2 }\n'
    )
    yaml = (
        "container:\n  c:\n    image: a\n    ports: [22:22]\n    environment: {A: NO, V: 1.10}\n"
        "    healthcheck:\n      test: [CMD, x]\n      retries: 2\n"
    )
    one, two = (desired_of({name: text}) for name, text in (("a.toml", toml), ("a.yaml", yaml)))
    assert one.containers["default/c"].facets == two.containers["default/c"].facets
    assert one.containers["default/c"].identity == two.containers["default/c"].identity


@pytest.mark.parametrize("mode", ["0755", "0o755", "'755'", "'0755'"])
def test_yaml_s_old_octal_is_a_mode(mode: str) -> None:
    text = (
        f"container:\n  c:\n    image: a\n"
        f"    volumes: [{{type: tmpfs, target: /x, tmpfs: {{mode: {mode}}}}}]\n"
    )
    (mount,) = desired_of({"a.yaml": text}).containers["default/c"].mounts
    assert mount.tmpfs_mode == 0o755


def test_a_null_is_a_key_that_is_left_out() -> None:
    text = (
        "container:\n  c:\n    image: a\n    command:\n    memory: ~\n    networks: {n: }\nnetwork:\n"
        "  n:\nvolume: {v: }\n"
    )
    desired, problems = read({"a.yaml": text})
    assert problems == []
    assert desired is not None and list(desired.volumes) == ["default/v"]
    assert desired.containers["default/c"].command is None
