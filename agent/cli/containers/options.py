"""Effects: the options of `stead run` and `stead create`, which are docker's."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

#: docker's, and why they are not taken
REFUSED = {
    "--blkio-weight-device": "use --device-read-bps and the like",
    "--cgroup-parent": "every container is in stead.slice",
    "--cpu-rt-period": "write --cpus, or --ulimit rtprio=",
    "--cpu-rt-runtime": "write --cpus, or --ulimit rtprio=",
    "--cpuset-mems": "the kernel takes memory near the processors of --cpuset-cpus",
    "--kernel-memory": "it counts as memory: write --memory",
    "--storage-opt": "give what writes much a volume with a size",
}
#: (flags, metavar, help) of options that may be repeated
_MANY = (
    ("-v --volume", "[SOURCE:]TARGET[:OPTIONS]", "mount a volume or a path of the host"),
    ("--mount", "type=TYPE,target=PATH,...", "mount in the long form: volume, bind, tmpfs, image"),
    ("--tmpfs", "TARGET[:OPTIONS]", "mount a tmpfs"),
    ("--volumes-from", "NAME[:ro]", "the volumes and binds of another container"),
    ("-e --env", "KEY[=VALUE]", "environment; without a value from here"),
    ("--env-file", "FILE", "lines KEY=VALUE"),
    ("-l --label", "KEY[=VALUE]", "label"),
    ("--label-file", "FILE", "lines KEY=VALUE"),
    ("--annotation", "KEY=VALUE", "annotation of the bundle"),
    ("--network --net", "NAME|none|host|container:NAME", "network; more than one with a name"),
    ("--network-alias --net-alias", "NAME", "a further name there"),
    ("--link-local-ip", "ADDRESS", "further address there"),
    ("-p --publish", "[[IP:]PORT:]PORT[/PROTOCOL]", "publish a port"),
    ("--expose", "PORT[/PROTOCOL]", "say that it listens there"),
    ("--add-host", "NAME:ADDRESS", "a line of /etc/hosts; host-gateway is this machine"),
    ("--dns", "ADDRESS", "ask that name server"),
    ("--dns-search", "DOMAIN", "look for names there, too"),
    ("--dns-option --dns-opt", "OPTION", "option of resolv.conf"),
    ("--group-add", "GROUP", "further group of the program"),
    ("--ulimit", "NAME=SOFT[:HARD]", "limit of each process: setrlimit(2)"),
    ("--sysctl", "KEY=VALUE", "kernel setting of its namespaces"),
    ("--device", "HOST[:TARGET[:rwm]]", "device of the host"),
    ("--device-read-bps", "PATH:SIZE", "bytes a second read from a device"),
    ("--device-write-bps", "PATH:SIZE", "bytes a second written to a device"),
    ("--device-read-iops", "PATH:NUMBER", "reads a second"),
    ("--device-write-iops", "PATH:NUMBER", "writes a second"),
    ("--device-cgroup-rule", "TYPE MAJOR:MINOR MODE", "devices that it may use"),
    ("--cap-add", "CAPABILITY", "a capability more"),
    ("--cap-drop", "CAPABILITY", "a capability less"),
    ("--security-opt", "OPTION", "no-new-privileges, seccomp=..."),
    ("--log-opt", "KEY=VALUE", "option of the log driver"),
    ("-a --attach", "stdin|stdout|stderr", "what of it is attached; all of them unless said"),
    ("--gpus", "DEVICES", "refused: use --device"),
    ("--link", "NAME", "refused: containers of one network find each other by name"),
)
#: (flags, metavar, help) of options with one value
_ONE = (
    ("--name", "NAME", "what it is called; else a name is made up"),
    ("-h --hostname", "NAME", "host name within"),
    ("--domainname", "NAME", "domain name within"),
    ("-w --workdir", "PATH", "working directory"),
    ("-u --user", "USER[:GROUP]", "who runs the program"),
    ("--entrypoint", "PROGRAM", "in the place of the image's"),
    ("--restart", "POLICY", "no (default), on-failure[:N], always, unless-stopped"),
    ("--stop-signal", "SIGNAL", "what ends it"),
    ("--stop-timeout", "SECONDS", "how long that may take before SIGKILL"),
    ("--ip", "ADDRESS", "its IPv4 address"),
    ("--ip6", "ADDRESS", "its IPv6 address"),
    ("--mac-address", "MAC", "its hardware address"),
    ("-m --memory", "SIZE", "memory limit"),
    ("--memory-reservation", "SIZE", "memory that it keeps when others want some"),
    ("--memory-swap", "SIZE", "memory and swap together; -1: no limit of swap"),
    ("--cpus", "NUMBER", "processors"),
    ("-c --cpu-shares", "NUMBER", "weight among containers, 1024 is the usual one"),
    ("--cpu-quota", "MICROSECONDS", "of each period"),
    ("--cpu-period", "MICROSECONDS", "of the quota, 100000 is the usual one"),
    ("--memory-swappiness", "0-100", "how soon its memory goes to swap"),
    ("--cpuset-cpus", "0-2,4", "which processors"),
    ("--pids-limit", "NUMBER", "processes; -1: no limit"),
    ("--blkio-weight", "10-1000", "weight of its input and output, 500 is the usual one"),
    ("--shm-size", "SIZE", "size of /dev/shm"),
    ("--pid", "host|container:NAME", "whose processes it sees"),
    ("--ipc", "host|container:NAME|...", "whose shared memory it has"),
    ("--uts", "host", "whose host name it has"),
    ("--cgroupns", "private|host", "whose cgroups it sees"),
    ("--userns", "host|auto", "whose user ids it has"),
    ("--oom-score-adj", "-1000-1000", "how soon it is killed when memory is short"),
    ("--log-driver", "DRIVER", "where its output goes"),
    ("--health-cmd", "COMMAND", "what says whether it is well"),
    ("--health-interval", "DURATION", "between two probes"),
    ("--health-timeout", "DURATION", "that a probe may take"),
    ("--health-retries", "NUMBER", "failures until it is unhealthy"),
    ("--health-start-period", "DURATION", "in which failures do not count"),
    ("--health-start-interval", "DURATION", "between two probes until then"),
    (
        "--health-on-failure",
        "restart|stop|none",
        "what happens then: restart with a restart policy, else none",
    ),
    ("--volume-driver", "local", "of volumes that are made for it"),
    ("--platform", "OS/ARCH", "what its image is for"),
    ("--isolation", "default", "there is one"),
    ("--runtime", "stead", "there is one"),
    *((flag, "VALUE", f"refused: {reason}") for flag, reason in REFUSED.items()),
    ("--cidfile", "FILE", "write its id there"),
)
_FLAGS = (
    ("-i --interactive", "keep its standard input open"),
    ("-t --tty", "give it a terminal"),
    ("-P --publish-all", "publish every port that it exposes, each on a random port"),
    ("--rm", "remove it when it has ended"),
    ("--privileged", "let it do almost all that the host may"),
    ("--read-only", "its root file system cannot be written"),
    ("--init", "an init that passes signals on and reaps zombies"),
    ("--no-healthcheck", "no probe, also not the image's"),
    ("--oom-kill-disable", "refused: write --oom-score-adj"),
    ("-q --quiet", "say nothing of a pull"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    import argparse

    parser.conflict_handler = parser._optionals.conflict_handler = (
        "resolve"  # -h is the host name, as docker's
    )
    for flags, metavar, text in _MANY:
        parser.add_argument(*flags.split(), action="append", default=[], metavar=metavar, help=text)
    for flags, metavar, text in _ONE:
        parser.add_argument(*flags.split(), default=None, metavar=metavar, help=text)
    for flags, text in _FLAGS:
        parser.add_argument(*flags.split(), action="store_true", help=text)
    words = ("missing", "always", "never")
    parser.add_argument("--pull", default="missing", choices=words, help="when the image is pulled (missing)")
    # no image is signed that way any more
    parser.add_argument("--disable-content-trust", action="store_true", help="of no effect")
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
