"""What a person writes wrongly in a field is said at its place, with what would be right."""

from __future__ import annotations

import pytest

from tests.spec_text import problems, read

C = "container.c"


@pytest.mark.parametrize(
    ("line", "column", "expected"),
    [
        ('imag = "x"', 1, f"{C}: unknown key 'imag' (did you mean 'image'?)"),
        ('Memory = "1g"', 1, f"{C}: unknown key 'Memory' (did you mean 'memory'?)"),
        ('mem_limit = "1g"', 1, f"{C}: unknown key 'mem_limit' (write `memory`)"),
        (
            'container_name = "x"',
            1,
            f"{C}: unknown key 'container_name' (the table's name is the container's: [container.NAME])",
        ),
        (
            'build = "."',
            1,
            f"{C}: unknown key 'build' (write [image.NAME] with `build`, and its name in `image`)",
        ),
        ('volumes_from = ["x"]', 17, f"{C}.volumes_from[0]: no container 'x'"),
        ('storage_opt = { size = "1g" }', 1, f"{C}.storage_opt: not supported yet (limit the disk"),
        ("zzz = 1", 1, f"{C}: unknown key 'zzz'"),
        ("environment = 3", 15, f"{C}.environment: write a table or a list, not a number"),
        ('environment = ["A=1", 3]', 23, f"{C}.environment[1]: write KEY=VALUE, not a number"),
        ("environment = { A = [1] }", 21, f"{C}.environment.A: write text, not a list"),
        ('environment = { "A=" = 1 }', 24, f"{C}.environment.A=: 'A=' is not a variable's name"),
        ("environment = { A = 2001-01-01 }", 21, f"{C}.environment.A: write text, not a date or time"),
        ("memory = true", 10, f"{C}.memory: write a size such as 512MiB, not true or false"),
        ('memory = "lots"', 10, f"{C}.memory: cannot read size 'lots': write bytes or a size such as 512MiB"),
        (
            'memory = "512"',
            10,
            f"{C}.memory: 512B is too little for a program to start (6MiB or more; mind the unit)",
        ),
        ('cpus = "many"', 8, f"{C}.cpus: cannot read cpus 'many': write a number such as 0.5 or 2"),
        ("cpu_weight = 0", 14, f"{C}.cpu_weight: 0 is out of range: 1 to 10000"),
        ('cpuset = "0,3-1"', 10, f"{C}.cpuset: cannot read cpuset '0,3-1': 3-1 ends before it begins"),
        ('user = "a:b:c"', 8, f"{C}.user: cannot read user 'a:b:c': write USER or USER:GROUP"),
        ('user = "1:4294967295"', 8, f"{C}.user: the id 4294967295 is above 2147483647"),
        ('group_add = ["-5"]', 14, f"{C}.group_add[0]: cannot read group '-5': write a name or a number"),
        ('cpuset = "a"', 10, f"{C}.cpuset: cannot read cpuset 'a': write processors such as 0-2,4"),
        ("pids = 1.5", 8, f"{C}.pids: write a whole number, not 1.5"),
        ("stop_grace_period = 10", 21, f'{C}.stop_grace_period: write a duration with its unit ("10s")'),
        ('stop_grace_period = "10"', 21, f"{C}.stop_grace_period: cannot read duration '10': write 10s"),
        ('stop_signal = "SIGTREM"', 15, f"{C}.stop_signal: 'SIGTREM' is not a signal"),
        ('read_only = "no"', 13, f"{C}.read_only: write true or false, not 'no'"),
        (
            'restart = "allways"',
            11,
            f"{C}.restart: cannot use 'allways': write one of no, always, on-failure, "
            f"unless-stopped, on-failure:N (did you mean 'always'?)",
        ),
        (
            'ports = ["80:"]',
            10,
            f"{C}.ports[0]: cannot read port '': write a number or a range from 1 to 65535",
        ),
        ('ports = ["80:70000"]', 10, f"{C}.ports[0]: cannot read port '70000': ports are 1 to 65535"),
        (
            'ports = ["80:80/icmp"]',
            10,
            f"{C}.ports[0]: cannot read protocol 'icmp': write tcp, udp or sctp",
        ),
        (
            'ports = ["[::1:80:80"]',
            10,
            f"{C}.ports[0]: cannot read port '[::1:80:80': write [IPV6]:HOST:CONTAINER",
        ),
        ("ports = [{ published = 80 }]", 10, f"{C}.ports[0]: 'target' is missing"),
        (
            'ports = [{ target = 80, published = "x" }]',
            37,
            f"{C}.ports[0].published: cannot read port 'x': write a number or a range from 1 to 65535",
        ),
        ('ports = "80:80"', 9, f"{C}.ports: write a list, not text"),
        ('volumes = ["x"]', 12, f"{C}.volumes[0]: cannot read volume 'x': "),
        ('volumes = ["./x:/x:y"]', 12, f"{C}.volumes[0]: cannot read volume './x:/x:y': unknown option 'y'"),
        ('volumes = ["../x:/x"]', 12, f"{C}.volumes[0]: path '../x' leaves the source"),
        ('volumes = ["a/../../x:/x"]', 12, f"{C}.volumes[0]: "),
        ('volumes = ["data:/x"]', 12, f"{C}.volumes[0]: no volume 'data' (declare [volume.data])"),
        (
            'volumes = [{ type = "volume", source = "", target = "/x", volume = { subpath = "a" } }]',
            80,
            f"{C}.volumes[0].volume.subpath: an anonymous volume has no part to be mounted",
        ),
        (
            'volumes = [{ type = "image", source = "b", target = "/x", image = { subpath = "../a" } }]',
            79,
            f"{C}.volumes[0].image.subpath: cannot use subpath '../a': write a path below the "
            "volume or image, without ..",
        ),
        (
            'volumes = [{ type = "image", source = "B:x", target = "/x" }]',
            39,
            f"{C}.volumes[0].source: cannot read image",
        ),
        (
            'volumes = [{ type = "bind", source = "/a", target = "/x", bind = { recursive = "readonly" } }]',
            80,
            f"{C}.volumes[0].bind.recursive: readonly goes with read_only = true",
        ),
        (
            'volumes = [{ type = "npipe", target = "/x" }]',
            21,
            f"{C}.volumes[0].type: 'npipe': not supported yet (one of: volume, bind, tmpfs, image)",
        ),
        (
            'volumes = [{ type = "tmpfs", target = "/x", bind = {} }]',
            45,
            f"{C}.volumes[0].bind: options of a bind in a mount of type tmpfs",
        ),
        (
            'volumes = [{ type = "tmpfs", target = "/x", tmpfs = { mode = 755 } }]',
            62,
            f"{C}.volumes[0].tmpfs.mode: cannot use mode 755: it is decimal (write 0o755)",
        ),
        ('tmpfs = ["/x", "/x"]', 9, f"{C}.tmpfs: something is mounted on '/x' already"),
        ('tmpfs = ["/x:sise=1"]', 10, f"{C}.tmpfs[0]: unknown tmpfs option 'sise' (did you mean 'size'?)"),
        ('tmpfs = "x"', 9, f"{C}.tmpfs: cannot read mount target 'x': write an absolute path"),
        (
            'volumes = ["/srv/data:/proc/1/fd"]',
            12,
            f"{C}.volumes[0]: cannot mount over '/proc/1/fd': inside of /proc only /proc/cpuinfo, ",
        ),
        ('networks = ["a", "a"]', 18, f"{C}.networks[1]: 'a' stands here twice"),
        ('networks = ["back"]', 13, f"{C}.networks[0]: no network 'back' (declare [network.back])"),
        ("networks = { back = {} }", 14, f"{C}.networks.back: no network 'back' (declare [network.back])"),
        (
            'networks = { default = { ipv4_address = "10.0.0.2" } }',
            41,
            f"{C}.networks.default.ipv4_address: network 'default' has no subnet of its own "
            f"(write subnet in [network.default])",
        ),
        (
            "networks = { default = { driver_opts = { a = 'b' } } }",
            26,
            f"{C}.networks.default.driver_opts: not supported yet",
        ),
        (
            'network_mode = "service:x"',
            16,
            f"{C}.network_mode: no container 'x' (declare [container.x])",
        ),
        (
            'network_mode = "host"\nports = ["80:80"]',
            1,
            f"{C}.ports: ports cannot be published with network_mode 'host'",
        ),
        (
            'network_mode = "none"\nnetworks = ["default"]',
            1,
            f"{C}.networks: networks cannot be joined with network_mode 'none' (leave one of them out)",
        ),
        ('depends_on = ["d"]', 15, f"{C}.depends_on[0]: no container 'd' (declare [container.d])"),
        (
            'depends_on = { c = "helthy" }',
            20,
            f"{C}.depends_on.c.condition: cannot use 'helthy': write one of started, healthy, "
            f"completed (did you mean 'healthy'?)",
        ),
        ('depends_on = ["c"]', 1, f"{C}.depends_on: containers wait for each other: p/c (c.toml:2) -> p/c"),
        ('extra_hosts = ["a"]', 16, f"{C}.extra_hosts[0]: cannot read host 'a': write NAME:ADDRESS"),
        ('dns = ["x"]', 8, f"{C}.dns[0]: cannot read address 'x': write an IPv4 or IPv6 address"),
        (
            'networks.default.aliases = ["a", "b\\n1.2.3.4 c"]',
            34,
            f"{C}.networks.default.aliases[1]: 'b\\n1.2.3.4 c' is not a host name (",
        ),
        ('dns_search = "a\\nb"', 14, f"{C}.dns_search: 'a\\nb' is not a domain to search in"),
        (
            'dns_opt = ["ndots:2", "a b"]',
            23,
            f"{C}.dns_opt[1]: 'a b' is not an option of resolv.conf (such as ndots:2)",
        ),
        (
            'hostname = "a b"',
            12,
            f"{C}.hostname: 'a b' is not a host name (letters, digits and - . inside, at most 63)",
        ),
        ("healthcheck = {}", 1, f"{C}.healthcheck: it says nothing: write test, http or tcp"),
        (
            'healthcheck = { http = "http://:80", tcp = ":80" }',
            1,
            f"{C}.healthcheck: write one of test, http and tcp, not http and tcp",
        ),
        (
            'healthcheck = { test = ["curl", "x"] }',
            24,
            f'{C}.healthcheck.test: a test begins with "CMD", "CMD-SHELL" or "NONE" (did you mean '
            f'["CMD", "curl", ...]?)',
        ),
        (
            'healthcheck = { http = "x" }',
            24,
            f"{C}.healthcheck.http: cannot read 'x': write http://:PORT/PATH",
        ),
        (
            'healthcheck = { http = "http://:65536/x" }',
            24,
            f"{C}.healthcheck.http: cannot read port '65536': ports are 1 to 65535",
        ),
        (
            'cap_add = ["NET_ADMN"]',
            12,
            f"{C}.cap_add[0]: 'NET_ADMN' is not a capability (did you mean 'NET_ADMIN'?)",
        ),
        (
            'security_opt = ["label=type:x"]',
            17,
            f"{C}.security_opt[0]: 'label=type:x': not supported yet (label=disable)",
        ),
        ("ulimits = { nofil = 3 }", 13, f"{C}.ulimits.nofil: cannot use 'nofil': write one of "),
        (
            "ulimits = { nofile = { soft = 3, hard = 2 } }",
            22,
            f"{C}.ulimits.nofile: soft limit 3 is above the hard limit 2",
        ),
        (
            'sysctls = { "vm.swappiness" = 1 }',
            31,
            f"{C}.sysctls.vm.swappiness: kernel setting 'vm.swappiness' is the whole machine's: ",
        ),
        (
            'network_mode = "host"\nsysctls = { "net.x" = 1 }',
            1,
            f"{C}.sysctls: kernel setting 'net.x' is the whole machine's with network_mode \"host\"",
        ),
        (
            'uts = "host"\nhostname = "x"',
            1,
            f'{C}.hostname: it is the host\'s with uts "host" (leave one of them out)',
        ),
        (
            'ipc = "host"\nshm_size = "1m"',
            1,
            f'{C}.shm_size: it is the host\'s with ipc "host" (leave one of them out)',
        ),
        (
            'annotations = { "stead.seccomp" = "unconfined" }',
            35,
            f"{C}.annotations.stead.seccomp: annotation 'stead.seccomp': names that begin with "
            f"stead. are the engine's own",
        ),
        (
            'devices = ["nvidia.com/gpu=all"]',
            12,
            f"{C}.devices[0]: cannot read device 'nvidia.com/gpu=all': write a path such as "
            f"/dev/fuse; other names are not supported yet",
        ),
        ('io = [{ read_bps = "1m" }]', 7, f"{C}.io[0]: 'device' is missing"),
        (
            'logging = { options = { max_size = "1m" } }',
            25,
            f"{C}.logging.options: unknown key 'max_size' (did you mean 'max-size'?)",
        ),
        (
            'logging = { driver = "gelf" }',
            22,
            f"{C}.logging.driver: 'gelf': not supported yet "
            "(one of: json-file, local, journald, syslog, none)",
        ),
        ("replicas = 2\nscale = 3", 1, f"{C}.scale: replicas and scale contradict each other"),
        (
            'schedule = "0 3 * *"',
            12,
            f"{C}.schedule: cannot read schedule '0 3 * *': it has 4 fields, not 5"
            " (write minute, hour, day, month and day of the week, such as 0 3 * * *, or @daily)",
        ),
        ("schedule = { retries = 1 }", 1, f"{C}.schedule: 'cron' is missing"),
        (
            'schedule = { cron = "@daily", concurrency_policy = "allow" }',
            52,
            f"{C}.schedule.concurrency_policy: cannot use 'allow': write one of skip, queue, replace",
        ),
        (
            'schedule = { cron = "@daily", time_zone = "Berlin" }',
            43,
            f"{C}.schedule.time_zone: there is no time zone 'Berlin' "
            "(write a name such as Europe/Berlin or UTC)",
        ),
        (
            'schedule = { cron = "TZ=UTC @daily", time_zone = "UTC" }',
            50,
            f"{C}.schedule.time_zone: 'TZ=UTC @daily' says a time zone as well; leave one out",
        ),
        (
            'schedule = { cron = "@every 6h", time_zone = "UTC" }',
            46,
            f"{C}.schedule.time_zone: '@every 6h' counts from the time before, in every time zone; "
            "leave it out",
        ),
        (
            'schedule = "@daily"\nrestart = "always"',
            1,
            f"{C}.restart: a job runs to its end; schedule.retries says how often it is tried again "
            "(leave it out)",
        ),
        ('schedule = "@daily"\nreplicas = 2', 1, f"{C}.replicas: a job is one container (leave it out)"),
        ('platform = "windows"', 12, f"{C}.platform: "),
        ('userns = "keep-id"', 10, f"{C}.userns: 'keep-id' is not known (host, auto, auto:size=65536)"),
        (
            'env_file = "../x.env"',
            12,
            f"{C}.env_file: env_file '../x.env' is not a file of the source (paths are relative "
            f"to this file)",
        ),
        (
            'env_file = ["x.env"]',
            13,
            f"{C}.env_file[0]: cannot read env_file 'x.env': no such file in the source "
            "(files that are read are named ",
        ),
        (
            'memory_swap = "1g"',
            15,
            f"{C}.memory_swap: memory_swap needs memory: it is memory and swap together",
        ),
        ('deploy = { placement = { constraints = ["x"] } }', 12, f"{C}.deploy.placement: not supported yet"),
        ("tty = 1", 7, f"{C}.tty: write true or false, not 1"),
        (
            'labels = { "a" = "$NO" }',
            18,
            f"{C}.labels.a: variable 'NO' is not set (write ${{NO:-}} for an empty default, $$NO "
            f"for a dollar)",
        ),
    ],
)
def test_a_wrong_field_is_named_at_its_place_with_what_is_right(
    line: str, column: int, expected: str
) -> None:
    (found,) = problems(line)
    row = 4 + line.count("\n")
    assert found.startswith(f"c.toml:{row}:{column}: {expected}")


def test_each_wrong_item_of_a_list_is_named() -> None:
    found = problems('extra_hosts = ["a:1.1.1.1", "b", "c:x"]')
    assert [text.partition(": ")[0] for text in found] == ["c.toml:4:29", "c.toml:4:34"]
    assert "write NAME:ADDRESS" in found[0] and "cannot read address 'x'" in found[1]


@pytest.mark.parametrize(
    "field",
    [
        'deploy = { placement = { constraints = ["a"] } }',
    ],
)
def test_what_has_its_effect_later_is_refused(field: str) -> None:
    (found,) = problems(field)
    assert found.endswith("not supported yet")
    place, key = found.split(": ")[:2]
    assert place.startswith("c.toml:4:") and key.startswith(f"container.c.{field.split()[0]}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('projekt = "x"', "1:1: the file: unknown key 'projekt' (did you mean 'project'?)"),
        (
            'project = "Shop"',
            "1:11: project: 'Shop' is not a project name (lower case letters, digits and _ - "
            "inside, at most 63)",
        ),
        ('[web]\nimage = "x"', "1:1: the file: unknown key 'web' (write [container.web])"),
        (
            "[tool.ruff]",
            "1:2: the file: unknown key 'tool' (known are project, image, container, network, volume, "
            "secret, config; a file that is no spec is excluded in .steadignore)",
        ),
        ("[services.web]", "1:2: the file: unknown key 'services' (write `container`)"),
        ("include = []", "1:1: include: not supported yet"),
        (
            '[container."a b"]\nimage = "x"',
            "1:1: container.a b: 'a b' is not a name (letters, digits and _ . - inside, at most 63)",
        ),
        ("[container.web]", "1:1: container.web: 'image' is missing"),
        ("container = 3", "1:13: container: write a table, not a number"),
        ("[container]\nweb = 3", "2:7: container.web: write a table, not a number"),
        ("[image.a]", "1:1: image.a: 'from' or 'build' is missing: which image is it?"),
        (
            '[image.a]\nfrom = "x"\npull = "5"',
            "3:8: image.a.pull: cannot use '5': write always, missing, never, daily, weekly or a duration "
            "such as 1h",
        ),
        (
            '[image.a]\nfrom = "x"\npull = "5s"',
            "3:8: image.a.pull: cannot ask a registry every 5s (10s or more)",
        ),
        (
            '[image.a]\nfrom = "X"',
            "2:8: image.a.from: cannot read image reference 'X': 'library/X' is not a repository "
            "(lower case only)",
        ),
        (
            "[image.a]\nbuild = { privileged = true }",
            "2:11: image.a.build.privileged: not supported yet",
        ),
        (
            '[network.a]\nsubnet = "10.0.0.1/24"',
            "2:10: network.a.subnet: cannot read subnet '10.0.0.1/24': 10.0.0.1/24 has host bits "
            "set (such as 10.88.7.0/24)",
        ),
        (
            '[network.a]\nsubnet = "fe80::/64"',
            "2:10: network.a.subnet: cannot use subnet 'fe80::/64': it cannot be routed "
            "(such as fd12:3456:789a::/64)",
        ),
        (
            '[network.a]\ngateway = "10.0.0.1"',
            "2:11: network.a.gateway: a gateway needs a subnet (write subnet too)",
        ),
        (
            '[network.a]\nsubnet = "10.0.0.0/24"\ngateway = "10.0.1.1"',
            "3:11: network.a.gateway: gateway 10.0.1.1 is not a host address of 10.0.0.0/24",
        ),
        (
            '[network.a]\ndriver = "overlay"',
            "2:10: network.a.driver: 'overlay': not supported yet (one of: bridge, macvlan)",
        ),
        (
            "[network.a]\nexternal = true\ninternal = true",
            "3:1: network.a.internal: an external network has no internal here (whoever makes it says so)",
        ),
        (
            "[volume.a]\nprune = 30",
            '2:9: volume.a.prune: write a duration with its unit ("30s")',
        ),
        (
            "[volume.a]\nbackup = { schedule = '0 3 * *', to = '/b' }",
            "2:23: volume.a.backup.schedule: cannot read schedule '0 3 * *': it has 4 fields, not 5"
            " (write minute, hour, day, month and day of the week, such as 0 3 * * *, or @daily)",
        ),
        (
            "[volume.a]\nbackup = { schedule = '@daily', to = 'b' }",
            "2:38: volume.a.backup.to: cannot use 'b': write an absolute path",
        ),
        (
            "[volume.a]\nbackup = { to = '/b' }",
            "2:1: volume.a.backup: 'schedule' is missing",
        ),
        (
            "[volume.a]\nbackup = { schedule = '@daily', to = '/b', keep = { dayly = 3 } }",
            "2:53: volume.a.backup.keep: unknown key 'dayly' (did you mean 'daily'?)",
        ),
        (
            "[volume.a]\nbackup = { schedule = '@daily', to = '/b', quiesce = 'pause' }",
            "2:54: volume.a.backup.quiesce: cannot use 'pause': write one of freeze, stop, none",
        ),
        ("[volume.a]\ndriver = 'nfs'", "2:10: volume.a.driver: cannot use 'nfs': write one of local"),
        (
            "[volume.a]\ndriver_opts = { sise = '1g' }",
            "2:24: volume.a.driver_opts.sise: unknown option 'sise' (known are type, device, o, size, loop)",
        ),
        (
            "[volume.a]\ndriver_opts = { size = 'much' }",
            "2:24: volume.a.driver_opts.size: cannot read size 'much': write bytes or a size such as 512MiB",
        ),
        (
            "[volume.a]\ndriver_opts = { device = '/dev/sdb1' }",
            "2:15: volume.a.driver_opts: type is missing: which file system is it? "
            '(for a directory o = "bind")',
        ),
        (
            "[volume.a]\ndriver_opts = { type = 'tmpfs', size = '1g' }",
            "2:40: volume.a.driver_opts.size: size is for a volume without type and device "
            '(write o = "size=...")',
        ),
        (
            "[volume.a]\ndriver_opts = { o = 'bind', device = 'data' }",
            "2:38: volume.a.driver_opts.device: cannot bind 'data': write an absolute path",
        ),
        (
            "[volume.a]\ndriver_opts = { loop = 'fat', size = '1g' }",
            "2:24: volume.a.driver_opts.loop: cannot use 'fat': write one of ext4, xfs, btrfs",
        ),
        (
            "[volume.a]\nexternal = true\nkeep = true",
            "3:1: volume.a.keep: an external volume has no keep here (whoever makes it says so)",
        ),
        (
            "[volume.a]\nname = 'x'\n[volume.b]\nname = 'x'",
            "4:8: volume.b.name: volume 'x' is declared twice; it is 'default/a' too (a.toml:1)",
        ),
        (
            "[volume.a]\nname = '../x'",
            "2:8: volume.a.name: cannot use '../x' as the name of a volume: write letters, digits, _ . -",
        ),
        ('[secret.a]\nfile = "x"\ndriver = "y"', "3:1: secret.a.driver: not supported yet"),
        (
            '[config.a]\ncontent = "x"\ntemplate_driver = "y"',
            "3:1: config.a.template_driver: not supported yet",
        ),
    ],
)
def test_what_is_wrong_outside_of_containers(text: str, expected: str) -> None:
    assert read({"a.toml": text})[1] == [f"a.toml:{expected}"]


@pytest.mark.parametrize(
    ("text", "refused", "unknown"),
    [
        (
            '[image.a]\nbuild = { contxt = ".", privileged = true }',
            "2:25: image.a.build.privileged",
            "2:11: image.a.build: unknown key 'contxt' (did you mean 'context'?)",
        ),
        (
            '[secret.a]\nfil = "x"\ndriver = "y"',
            "3:1: secret.a.driver",
            "2:1: secret.a: unknown key 'fil' (did you mean 'file'?)",
        ),
        (
            '[container.a]\nimage = "a"\n[container.a.deploy]\nplacement = { constraint = "x" }',
            "4:1: container.a.deploy.placement",
            "4:15: container.a.deploy.placement: unknown key 'constraint' (did you mean 'constraints'?)",
        ),
    ],
)
def test_what_is_refused_is_checked_all_the_same(text: str, refused: str, unknown: str) -> None:
    found = read({"a.toml": text})[1]
    assert f"a.toml:{refused}: not supported yet" in found
    assert f"a.toml:{unknown}" in found


def test_each_item_of_a_list_has_its_own_problem() -> None:
    found = problems('environment = ["A", 1, { B = 2 }]\nports = ["x", "80:80", "y"]\ndns = ["a", "b"]')
    assert [line.split(": ")[1] for line in found] == [
        "container.c.environment[1]",
        "container.c.environment[2]",
        "container.c.ports[0]",
        "container.c.ports[2]",
        "container.c.dns[0]",
        "container.c.dns[1]",
    ]


def test_the_writer_s_own_keys_may_stand_in_every_table() -> None:
    text = (
        "x-top: $NOT_REPLACED\ncontainer:\n  c:\n    x-a: 1\n    image: a\n"
        "    ports: [{target: 1, published: 1, x-b: 2}]\n"
        "    healthcheck: {test: a, x-c: 3}\nnetwork: {n: {x-d: 4}}\n"
    )
    assert read({"a.yaml": text})[1] == []
    assert read({"a.yaml": "container:\n  c: {image: a, xx-a: 1}\n"})[1] != []
