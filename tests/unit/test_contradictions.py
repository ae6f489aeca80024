"""Fields that contradict each other, or cannot be meant, are said so."""

from __future__ import annotations

import pytest

from tests.spec_text import problems, read

AROUND = '[volume.v]\n[network.n]\nsubnet = "10.1.0.0/24"\n[container.d]\nimage = "a"'


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            'memory = "64m"\ndeploy.resources.limits.memory = "32m"',
            "deploy.resources.limits.memory: `memory` says something else; leave one out",
        ),
        ('memory = "64m"\ndeploy.resources.limits.memory = "64MiB"', ""),
        (
            'memory = "64m"\nmemory_swap = "32m"',
            "memory_swap: memory_swap is memory and swap together: it cannot be less than memory",
        ),
        (
            'memory = "64m"\nmemory_reservation = "65m"',
            "memory_reservation: memory_reservation is above memory",
        ),
        (
            'replicas = 2\nnetworks.n.ipv4_address = "10.1.0.5"',
            "networks: 2 replicas cannot share one address in 'p/n'",
        ),
        (
            'restart = "no"\ndeploy.restart_policy.condition = "any"',
            "deploy.restart_policy: `restart` says the same; leave one out",
        ),
        (
            "deploy.restart_policy.max_attempts = 3",
            "deploy.restart_policy.max_attempts: max_attempts without condition on-failure: not "
            "supported yet",
        ),
        (
            'restart_backoff = { initial = "2m", max = "1m" }',
            "restart_backoff.max: max is shorter than initial",
        ),
        ('restart_backoff = { initial = "2m" }', ""),
        (
            'logging.options.syslog-format = "rfc3164"',
            "logging.options.syslog-format: the driver is local, not syslog",
        ),
        ('logging.options.tag = "a"', "logging.options.tag: output of the driver local has no tag"),
        (
            'logging = { driver = "syslog", options = { tag = "{{.Labels}}" } }',
            "logging.options.tag: cannot use {{.Labels}}: it may be {{.ID}}, {{.FullID}}, {{.Name}}, "
            "{{.ImageID}}, {{.ImageFullID}}, {{.ImageName}}, {{.DaemonName}}",
        ),
        (
            'logging = { driver = "syslog", options = { tag = "a\\nb" } }',
            "logging.options.tag: a tag is one line without control characters",
        ),
        (
            'logging.options.max-buffer-size = "1m"',
            "logging.options.max-buffer-size: it has no effect without mode non-blocking",
        ),
        (
            'logging = { driver = "none", options = { max-file = 2 } }',
            "logging.options.max-file: the driver none keeps nothing",
        ),
        (
            'logging = { driver = "syslog", options = { syslog-address = "tcp://a:0" } }',
            "logging.options.syslog-address: cannot read 'tcp://a:0': write tcp://HOST:PORT",
        ),
        (
            'logging = { driver = "syslog", options = { syslog-address = "/dev/log" } }',
            "logging.options.syslog-address: cannot read '/dev/log': write unix:///dev/log, "
            "udp://HOST:PORT or tcp://HOST:PORT",
        ),
        (
            'logging = { driver = "syslog", options = { syslog-address = "tcp+tls://a:1" } }',
            "logging.options.syslog-address: tcp+tls: not supported yet",
        ),
        ('logging.options.max-size = "1k"', "logging.options.max-size: a log file is 4KiB or larger"),
        (
            'ports = [{ target = 80, published = "81-80" }]',
            "ports[0].published: cannot read port range '81-80': it ends before it begins",
        ),
        ('ports = [{ target = 80, published = "80-81" }, "8000-8010:80", "80"]', ""),
        (
            'ports = ["80-81:80-82"]',
            "ports[0]: cannot read port '80-81:80-82': 2 host ports for 3 of the container",
        ),
        ('ports = ["1-5000:1-5000"]', "ports[0]: more than 4096 published ports"),
        (
            'ports = ["::1:80:80"]',
            "ports[0]: cannot read port '::1:80:80': an IPv6 address stands in brackets",
        ),
        ("ports = [[80]]", "ports[0]: write a port such as 8080:80, not a list"),
        (
            'volumes = [{ type = "tmpfs", source = "x", target = "/x" }]',
            "volumes[0].source: a tmpfs has no source",
        ),
        ('volumes = [{ type = "bind", target = "/x" }]', "volumes[0]: 'source' is missing"),
        ('volumes = ["data/x:/x"]', "volumes[0]: no volume 'data/x' (for a directory write ./data/x)"),
        ('volumes = ["v:/x:rshared"]', "volumes[0]: cannot read volume 'v:/x:rshared': rshared is for paths"),
        (
            'volumes = ["/a:/x", { type = "volume", source = "v", target = "/x/" }]',
            "volumes[1]: something is mounted on '/x' already",
        ),
        ('tmpfs = "/x:uid=me"', "tmpfs: write a whole number, not 'me'"),
        ('tmpfs = "/x:exec=1"', "tmpfs: unknown tmpfs option 'exec'"),
        (
            'volumes = [{ type = "volume", source = "v", target = "/x", volume = { labels = { a = "b" } } }]',
            "volumes[0].volume.labels: labels of a volume with a name (write labels in [volume.v])",
        ),
        (
            'volumes = [{ type = "image", source = "a", target = "/x", read_only = false }]',
            "volumes[0].read_only: an image is always mounted read-only",
        ),
        ('tmpfs = "/x:mode=9"', "tmpfs: cannot read mode '9': write octal digits such as 1777"),
        ('environment = ["=x"]', "environment[0]: '' is not a variable's name"),
        ('labels = ["=x"]', "labels[0]: a key is missing before ="),
        ('sysctls = ["somaxconn=1"]', "sysctls[0]: 'somaxconn' is not a kernel setting"),
        ('sysctls = { "net.x" = "" }', "sysctls.net.x: kernel setting 'net.x' has no value"),
        ("extra_hosts = 3", "extra_hosts: write a table or a list, not a number"),
        ('extra_hosts = { "a b" = "1.1.1.1" }', "extra_hosts.a b: 'a b' is not a host name"),
        (
            'extra_hosts = { a = "x" }',
            "extra_hosts.a: cannot read address 'x': write an IPv4 or IPv6 address",
        ),
        (
            "healthcheck.test = []",
            'healthcheck.test: a test is not empty: write ["CMD", "program", ...], text for a '
            'shell, or ["NONE"]',
        ),
        ('healthcheck.tcp = "a b:80"', "healthcheck.tcp: cannot read 'a b:80': write :PORT or HOST:PORT"),
        (
            "healthcheck.readiness = { interval = '1s' }",
            "healthcheck.readiness: it has no test: write test, http or tcp",
        ),
        (
            "healthcheck.startup = { tcp = ':1', http = 'http://:1' }",
            "healthcheck.startup: write one of test, http and tcp, not http and tcp",
        ),
        (
            "healthcheck.readiness.test = ['NONE']",
            "healthcheck.readiness.test: NONE is said of the image's own test, which is none of readiness",
        ),
        (
            "healthcheck = { tcp = ':1', method = 'HEAD' }",
            "healthcheck.method: it says how http asks, and there is no http",
        ),
        (
            "healthcheck = { http = 'http://:1', tls_verify = true }",
            "healthcheck.tls_verify: there is no certificate without https",
        ),
        (
            "healthcheck = { http = 'http://:1', expect_status = '2xx' }",
            "healthcheck.expect_status: cannot read '2xx': write a status such as 204, or 200-299,401",
        ),
        (
            'healthcheck = { http = "http://:1", headers = { A = "b\\nc" } }',
            "healthcheck.headers: the header A is one line",
        ),
        ('healthcheck.tcp = ":80-81"', "healthcheck.tcp: cannot read ':80-81': write one port"),
        (
            'healthcheck = { tcp = ":80", interval = "0s" }',
            "healthcheck.interval: a duration of nothing makes no sense here",
        ),
        (
            'stop_grace_period = "40y"',
            "stop_grace_period: cannot read duration '40y': write a duration such as 1m30s or 500ms",
        ),
        (
            'stop_grace_period = "2000w"',
            "stop_grace_period: cannot read duration '2000w': more than 30 years",
        ),
        (
            'io = [{ device = "sda" }]',
            "io[0].device: cannot read device 'sda': write /dev/NAME or MAJOR:MINOR",
        ),
        ('user = "a\\u0000"', "user: cannot use text with a NUL byte"),
        ("cpus = []", "cpus: write a number such as 0.5, not a list"),
        ("stop_signal = 99", "stop_signal: 99 is not a signal: 1 to 64"),
        ('working_dir = "x"', "working_dir: cannot use 'x': write an absolute path"),
        ('command = "a \'b"', "command: cannot split command: no closing quotation"),
        ('devices = [{ target = "/dev/x" }]', "devices[0]: write source, target and permissions"),
        (
            'devices = ["/dev/a:/dev/b:rr"]',
            "devices[0]: cannot read device: write /dev/HOST:/dev/CONTAINER:rwm",
        ),
        (
            'security_opt = ["no-new-privs"]',
            "security_opt[0]: unknown security option 'no-new-privs' (did you mean 'no-new-privileges'?)",
        ),
        (
            'security_opt = ["seccomp=unconfined", "seccomp=seccomp.json"]',
            "security_opt[1]: seccomp is 'unconfined' already",
        ),
        (
            'security_opt = ["seccomp=../seccomp.json"]',
            "security_opt[0]: '../seccomp.json' is not a file of the source",
        ),
        (
            'security_opt = ["seccomp=web-seccomp.json"]',
            "security_opt[0]: cannot read seccomp profile 'web-seccomp.json': no such file in the source",
        ),
        (
            'networks.n.mac_address = "x"',
            "networks.n.mac_address: cannot read hardware address 'x': write 02:42:ac:11:65:43",
        ),
        (
            'networks.n.mac_address = "01:00:00:00:00:00"',
            "networks.n.mac_address: cannot use hardware address '01:00:00:00:00:00': it is a "
            "multicast address",
        ),
        (
            'networks.n.ipv4_address = "::1"',
            "networks.n.ipv4_address: cannot use '::1': write an IPv4 address",
        ),
        ('userns = "host"\nuserns_mode = "auto"', "userns_mode: userns says something else"),
        ('userns = "auto"\npid = "host"', 'pid: ids of its own (userns) do not go with pid "host"'),
        ('userns = "auto"\nnetwork_mode = "host"', "network_mode: ids of its own (userns) do not go with"),
        ('userns = "auto"\nprivileged = true', "privileged: ids of its own (userns) leave a privileged"),
        ('userns = "auto:size=0"', "userns: a range has 1 to 16777216 ids"),
        ('userns = "auto:ids=5"', "userns: cannot read 'ids=5'"),
        ('volumes = ["/a\\u0000b:/x"]', "volumes[0]: cannot use text with a NUL byte"),
        ("depends_on = [{}]", "depends_on: write text, not a table"),
    ],
)
def test_a_contradiction_is_said(lines: str, expected: str) -> None:
    found = problems(lines, around=AROUND)
    assert len(found) == bool(expected)
    if expected:
        assert found[0].split(": ", 1)[1].startswith(f"container.c.{expected}")


def test_an_image_is_declared_for_one_platform() -> None:
    text = (
        '[image.a]\nfrom = "x"\nplatform = "linux/amd64"\n[image.b]\nfrom = "x"\nplatform = "linux/arm64"\n'
    )
    assert read({"a.toml": text})[1] == [
        "a.toml:4:1: image.b: image 'x:latest' is wanted for linux/arm64 here and linux/amd64 in a.toml:1"
    ]


def test_a_container_of_a_broken_image_or_network_has_no_further_problem() -> None:
    text = (
        '[image.i]\nfrom = "X"\n[network.n]\nsubnet = "x"\n'
        '[container.c]\nimage = "i"\nnetworks.n.ipv4_address = "10.0.0.5"\n'
    )
    assert [line.split(": ")[0] for line in read({"a.toml": text})[1]] == ["a.toml:2:8", "a.toml:4:10"]


@pytest.mark.parametrize("subnet", ["10.0.0.0/30", "10.0.0.0/32"])
def test_a_subnet_has_room(subnet: str) -> None:
    (found,) = read({"a.toml": f'[network.n]\nsubnet = "{subnet}"\n'})[1]
    assert found.endswith(f"cannot use subnet '{subnet}': it has no room for containers")


def test_a_relative_bind_needs_a_source_that_lies_on_the_machine() -> None:
    from specs.resolve import resolve

    text = '[container.c]\nimage = "a"\nvolumes = ["./d:/d"]\n'
    _, found = resolve({"a.toml": text.encode()}, source="s", variables={})
    assert [problem.text for problem in found] == [
        "container.c.volumes[0]: relative path './d': this source has no directory on the machine"
    ]
