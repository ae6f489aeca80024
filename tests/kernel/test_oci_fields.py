"""Every field of a Linux config.json is honoured, seen from inside, or refused by its name; what Debian's
runc knows, too, is done as it does it. Needs root."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.linux import capabilities as kernel
from runtime.oci import fields, kinds
from tests.kernel.oci_box import Bundle, Workshop, workshop

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MAPPING = [{"containerID": 0, "hostID": 300000, "size": 65536}]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    base = tmp_path_factory.mktemp("oci")
    with workshop(base) as made:
        yield made


Change = Callable[[Bundle], None]


def put(path: str, value: object) -> Change:
    """Set one field by its name."""

    def change(bundle: Bundle) -> None:
        *parents, last = path.split(".")
        place = bundle.config
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value

    return change


def mount(destination: str, kind: str, source: str, *options: str, **more: object) -> Change:
    def change(bundle: Bundle) -> None:
        entry = {"destination": destination, "type": kind, "source": source, "options": list(options), **more}
        bundle.config["mounts"].append(entry)

    return change


def capabilities(**sets: list[str]) -> Change:
    return put("process.capabilities", sets)


def both(*changes: Change) -> Change:
    def change(bundle: Bundle) -> None:
        for one in changes:
            one(bundle)

    return change


def user_namespace(bundle: Bundle) -> None:
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = MAPPING


STATUS = "grep -E '^(Cap|NoNew|Seccomp:|Groups|Uid|Gid|Umask)' /proc/self/status"
FLAGS = "grep ' /data ' /proc/self/mountinfo | cut -d' ' -f6"
V1 = not os.path.exists("/sys/fs/cgroup/cgroup.controllers")
ALL = ["CAP_KILL", "CAP_SYS_CHROOT", "CAP_NET_RAW"]
NO_MKDIR = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {
            "names": ["kill"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}],
        },
    ],
}

#: field -> (change, script, what it says); runc says the same unless the script's name is in OURS
HONOURED: dict[str, tuple[Change, str, str]] = {
    "hostname": (put("hostname", "own"), "hostname", "own"),
    "root.readonly": (put("root.readonly", True), "touch /x 2>/dev/null || echo no", "no"),
    "process.cwd": (put("process.cwd", "/home"), "pwd", "/home"),
    "process.cwd missing": (put("process.cwd", "/made/here"), "pwd", "/made/here"),
    "process.env": (put("process.env", ["PATH=/bin", "A=1 2", "B="]), "echo $A-$B-", "1 2--"),
    "process.user": (
        put("process.user", {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 63}),
        "grep -E '^(Uid|Gid|Groups)' /proc/self/status; umask",
        "Uid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t9 10 \n0077",
    ),
    "process.capabilities": (
        capabilities(bounding=ALL, effective=ALL, permitted=ALL),
        STATUS + " | grep Cap",
        r"CapInh:\t0{16}\nCapPrm:\t0{10}042020\nCapEff:\t0{10}042020\nCapBnd:\t0{10}042020\nCapAmb:\t0{16}",
    ),
    "process.capabilities.ambient": (
        both(
            capabilities(bounding=ALL, effective=ALL, permitted=ALL, inheritable=ALL, ambient=["CAP_KILL"]),
            put("process.user", {"uid": 7, "gid": 7}),
        ),
        STATUS + " | grep -E 'CapInh|CapEff|CapAmb'",
        r"CapInh:\t0{10}042020\nCapEff:\t0{14}20\nCapAmb:\t0{14}20",
    ),
    "process.rlimits": (
        put("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]),
        "ulimit -Sn; ulimit -Hn",
        "100\n200",
    ),
    "process.rlimits without end": (
        put("process.rlimits", [{"type": "RLIMIT_CORE", "soft": (1 << 64) - 1, "hard": (1 << 64) - 1}]),
        "ulimit -Sc; ulimit -Hc",
        "unlimited\nunlimited",
    ),
    "process.noNewPrivileges": (
        put("process.noNewPrivileges", True),
        STATUS + " | grep NoNew",
        "NoNewPrivs:\t1",
    ),
    "process.oomScoreAdj": (put("process.oomScoreAdj", 123), "cat /proc/self/oom_score_adj", "123"),
    "linux.sysctl": (
        put(
            "linux.sysctl",
            {"kernel.shmmni": "77", "net.ipv4.ip_forward": "1", "net/ipv4/ip_default_ttl": "9"},
        ),
        "sysctl -n kernel.shmmni net.ipv4.ip_forward net.ipv4.ip_default_ttl",
        "77\n1\n9",
    ),
    "linux.maskedPaths": (
        put("linux.maskedPaths", ["/proc/uptime", "/proc/irq"]),
        "wc -c < /proc/uptime; ls /proc/irq | wc -l; touch /proc/irq/x 2>/dev/null || echo no",
        "0\n0\nno",
    ),
    "linux.readonlyPaths": (
        put("linux.readonlyPaths", ["/proc/sys", "/tmp"]),
        "touch /tmp/x 2>/dev/null || echo no",
        "no",
    ),
    "linux.devices": (
        put(
            "linux.devices",
            [
                {
                    "path": "/dev/own",
                    "type": "c",
                    "major": 1,
                    "minor": 3,
                    "fileMode": 384,
                    "uid": 3,
                    "gid": 4,
                },
                {"path": "/dev/deep/fifo", "type": "p", "fileMode": 420},
            ],
        ),
        "stat -c '%a %u:%g %t:%T' /dev/own; stat -c '%F %a' /dev/deep/fifo; test -c /dev/null && echo null",
        "600 3:4 1:3\nfifo 644\nnull",
    ),
    "linux.seccomp": (
        put("linux.seccomp", NO_MKDIR),
        "mkdir /tmp/q 2>&1; kill -USR1 $$ 2>&1 | grep -o 'not permitted'; kill -URG $$;"
        " grep Seccomp: /proc/self/status",
        r"mkdir: .*Function not implemented\nnot permitted\nSeccomp:\t2",
    ),
    "linux.namespaces shared": (
        lambda bundle: [bundle.without(kind) for kind in ("pid", "ipc", "network")] and None,
        "for n in pid ipc net; do readlink /proc/self/ns/$n; done",
        "\n".join(os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "net"))
        .replace("[", r"\[")
        .replace("]", r"\]"),
    ),
    "linux.namespaces network": (
        lambda bundle: None,
        "ip -o link | cut -d: -f2,3 | cut -c1-30",
        " lo: <LOOPBACK,UP,LOWER_UP> .*",
    ),
    "linux.uidMappings": (
        user_namespace,
        "id -u; cat /proc/self/uid_map | tr -s ' '; hostname",
        r"0\n 0 300000 65536\nstead",
    ),
    "linux.resources.memory": (
        put(
            "linux.resources.memory",
            {"limit": 50 << 20, "swap": 60 << 20, "reservation": 30 << 20, "swappiness": 7},
        ),
        "cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes memory.memsw.limit_in_bytes"
        " memory.soft_limit_in_bytes memory.swappiness",
        f"{50 << 20}\n{60 << 20}\n{30 << 20}\n7",
    ),
    "linux.resources.cpu": (
        put(
            "linux.resources.cpu", {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"}
        ),
        "cd /sys/fs/cgroup; cat cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus"
        " cpuset/cpuset.mems",
        "512\n50000\n100000\n0\n0",
    ),
    "linux.resources.pids": (
        put("linux.resources.pids", {"limit": 33}),
        "cat /sys/fs/cgroup/pids/pids.max",
        "33",
    ),
    "linux.resources.devices": (
        both(
            put(
                "linux.resources.devices",
                [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "b", "major": 7, "minor": 5, "access": "rw"},
                ],
            ),
            capabilities(bounding=["CAP_MKNOD"], effective=["CAP_MKNOD"], permitted=["CAP_MKNOD"]),
        ),
        "for n in 5 6; do mknod /dev/l$n b 7 $n; dd if=/dev/l$n count=0 2>&1 | grep -c 'not permitted'; done;"
        " true",
        "0\n1",
    ),
    "mounts tmpfs": (
        mount("/data", "tmpfs", "tmpfs", "nosuid", "nodev", "noexec", "noatime", "ro", "size=64k"),
        FLAGS + "; stat -c %a /data; df -k /data | tail -n 1 | tr -s ' ' | cut -d' ' -f2",
        "ro,nosuid,nodev,noexec,noatime\n755\n64",
    ),
    "mounts bind": (
        mount("/data", "bind", "/etc", "rbind", "ro", "nosuid", "nodev"),
        FLAGS + "; test -f /data/hostname && echo here",
        "ro,nosuid,nodev,relatime\nhere",
    ),
    "mounts bind of the bundle": (
        mount("/data", "bind", "../shared", "rbind", "ro", "rw"),
        FLAGS + "; touch /data/x && rm /data/x && echo wrote",
        "rw,.*\nwrote",
    ),
    "mounts bind of a file": (
        mount("/data/new/file", "bind", "/etc/hostname", "bind"),
        "test -s /data/new/file && echo here",
        "here",
    ),
    "mounts tmpcopyup": (
        mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"),
        "cat /etc/passwd; touch /etc/x && echo rw",
        "root:x:0:0::/:/bin/sh\nrw",
    ),
    "mounts rro": (mount("/data", "bind", "/proc", "rbind", "rro"), FLAGS, "ro,.*"),
}
#: Debian's runc is of before these, or does less.
OURS: dict[str, tuple[Change, str, str]] = {
    "domainname": (put("domainname", "example.net"), "cat /proc/sys/kernel/domainname", "example.net"),
    "linux.timeOffsets": (
        both(
            lambda bundle: bundle.namespace("time"),
            put(
                "linux.timeOffsets",
                {"boottime": {"secs": 7000000, "nanosecs": 0}, "monotonic": {"secs": 100}},
            ),
        ),
        "cut -d. -f1 /proc/uptime",
        r"[7-9]\d{6}",
    ),
    "linux.personality": (put("linux.personality", {"domain": "LINUX32"}), "uname -m", "i686|armv8l"),
    "process.scheduler": (
        put("process.scheduler", {"policy": "SCHED_BATCH", "nice": 5}),
        "cut -d' ' -f41 /proc/self/stat; cut -d' ' -f19 /proc/self/stat",
        "3\n5",
    ),
    "process.ioPriority": (
        put("process.ioPriority", {"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
        "ionice -p $$",
        "idle",
    ),
    "process.execCPUAffinity": (
        put("process.execCPUAffinity", {"initial": "0", "final": "0"}),
        "grep Cpus_allowed_list /proc/self/status",
        "Cpus_allowed_list:\t0",
    ),
    "mounts idmap": (
        both(user_namespace, mount("/data", "bind", "{base}/shared", "bind", "idmap")),
        "stat -c %u:%g /data",
        "0:0",
    ),
    "mounts uidMappings": (
        mount("/data", "bind", "{base}/shared", "bind", uidMappings=MAPPING, gidMappings=MAPPING),
        "stat -c %u:%g /data",
        "300000:300000",
    ),
    "mounts nosymfollow": (
        mount("/data", "bind", "{base}/shared", "bind", "nosymfollow"),
        FLAGS,
        "rw,relatime,nosymfollow",
    ),
    "linux.rootfsPropagation": (
        put("linux.rootfsPropagation", "shared"),
        "grep ' / ' /proc/self/mountinfo | grep -c shared:",
        "1",
    ),
    "mounts tmpfs with a mode": (
        mount("/data", "tmpfs", "tmpfs", "mode=700"),
        "stat -c %a /data",
        "700",
    ),
    "linux.mountLabel": (put("linux.mountLabel", "system_u:object_r:container_file_t:s0"), "echo ran", "ran"),
    "linux.resources.cpu.burst": (
        put("linux.resources.cpu", {"quota": 50000, "period": 100000, "burst": 20000}),
        "cat /sys/fs/cgroup/cpu/cpu.cfs_burst_us",
        "20000",
    ),
    "linux.resources.cpu.idle": (
        put("linux.resources.cpu", {"idle": 1}),
        "cat /sys/fs/cgroup/cpu/cpu.idle",
        "1",
    ),
    "annotations": (put("annotations", {"org.example": "x"}), "echo ran", "ran"),
}


def prepared(shop: Workshop, change: Change, script: str) -> Bundle:
    shared = shop.base / "shared"
    shared.mkdir(exist_ok=True)
    bundle = shop.bundle(script)
    change(bundle)
    for entry in bundle.config["mounts"]:
        entry["source"] = entry["source"].replace("{base}", str(shop.base))
    for directory in [shop.base, *shop.base.parents]:
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)  # root of a user namespace passes here
    return bundle


@pytest.mark.parametrize("field", HONOURED)
def test_a_field_is_honoured_as_runc_does_it(shop: Workshop, field: str) -> None:
    change, script, expected = HONOURED[field]
    if "cgroup" in script and not V1:
        pytest.skip("the files of cgroup v1 are looked at")
    for oci in shop.runtimes():
        said = prepared(shop, change, script).run(oci)
        assert said.code == 0, (oci.program, said.errors)
        assert re.fullmatch(expected, said.out.rstrip("\n")), (oci.program, said.out)


@pytest.mark.parametrize("field", OURS)
def test_a_field_that_runc_does_not_know_is_honoured(shop: Workshop, field: str) -> None:
    change, script, expected = OURS[field]
    if "cgroup" in script and not V1:
        pytest.skip("the files of cgroup v1 are looked at")
    said = prepared(shop, change, script).run(shop.stead)
    assert said.code == 0, said.errors
    assert re.fullmatch(expected, said.out.rstrip("\n")), said.out


LISTENER = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock"}
NOTIFY = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_NOTIFY"}]}
REFUSED: dict[str, tuple[Change, str]] = {
    "ociVersion": (put("ociVersion", "2.0.0"), "ociVersion: 2.0.0"),
    "windows": (put("windows", {"layerFolders": ["x"]}), "windows: it is of another system"),
    "vm": (put("vm", {"kernel": {"path": "/x"}}), "vm: it is of another system"),
    "process.commandLine": (put("process.commandLine", "x"), "process.commandLine: it is of another system"),
    "process.user.username": (put("process.user", {"username": "x"}), "process.user.username"),
    "process.args": (put("process.args", []), "process.args: it is empty"),
    "process.cwd": (put("process.cwd", "home"), "process.cwd: it is no absolute path"),
    "process.selinuxLabel": (
        put("process.selinuxLabel", "u:r:t"),
        "selinuxLabel u:r:t: this host has no SELinux",
    ),
    "process.user.uid": (
        put("process.user.uid", (1 << 32) - 1),
        "process.user.uid: a number from 0 to 2147483647",
    ),
    "process.rlimits": (put("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "RLIMIT_X"),
    "process.oomScoreAdj": (put("process.oomScoreAdj", -900), "oomScoreAdj -900"),
    "process.scheduler": (
        put("process.scheduler", {"policy": "SCHED_X"}),
        "process.scheduler.policy: SCHED_X",
    ),
    "process.ioPriority": (put("process.ioPriority", {"class": "X"}), "process.ioPriority.class: X"),
    "process.execCPUAffinity": (
        put("process.execCPUAffinity", {"initial": "a"}),
        "process.execCPUAffinity.initial",
    ),
    "linux.intelRdt": (put("linux.intelRdt", {"closID": "x"}), "linux.intelRdt: cache and memory bandwidth"),
    "linux.memoryPolicy": (put("linux.memoryPolicy", {"mode": "MPOL_BIND"}), "linux.memoryPolicy"),
    "linux.netDevices": (
        put("linux.netDevices", {"eth0": {}}),
        "linux.netDevices: no network device is moved",
    ),
    "linux.seccomp.listenerPath": (put("linux.seccomp", LISTENER), "linux.seccomp.listenerPath: no listener"),
    "linux.seccomp notify": (put("linux.seccomp", NOTIFY), "linux.seccomp: SCMP_ACT_NOTIFY"),
    "linux.personality.flags": (
        put("linux.personality", {"domain": "LINUX", "flags": ["X"]}),
        "linux.personality.flags",
    ),
    "linux.sysctl": (put("linux.sysctl", {"vm.swappiness": "1"}), "linux.sysctl: vm.swappiness"),
    "linux.sysctl elsewhere": (
        put("linux.sysctl", {"net/../vm/swappiness": "60"}),
        "linux.sysctl: net/../vm/swappiness: it is not in a namespace",
    ),
    "linux.timeOffsets": (
        put("linux.timeOffsets", {"boottime": {"secs": 1}}),
        "there is no new time namespace",
    ),
    "linux.uidMappings": (put("linux.uidMappings", MAPPING), "linux.uidMappings: there is no user namespace"),
    "linux.namespaces": (lambda bundle: bundle.without("mount"), "mount is missing"),
    "linux.namespaces path": (
        lambda bundle: bundle.namespace("ipc", path="/nowhere"),
        "ipc: /nowhere: no such file",
    ),
    "linux.namespaces type": (lambda bundle: bundle.namespace("other"), "other: no such kind"),
    "hostname": (lambda bundle: bundle.without("uts"), "hostname: there is no uts namespace"),
    "linux.cgroupsPath": (put("linux.cgroupsPath", "system.slice:x:y"), "a path of the systemd manager"),
    "linux.resources.unified": (put("linux.resources.unified", {"memory.high": "1"}), "resources.unified"),
    "linux.resources.hugepageLimits": (
        put("linux.resources.hugepageLimits", [{"pageSize": "3MB", "limit": 1}]),
        "resources.hugepageLimits",
    ),
    "linux.resources.network": (put("linux.resources.network", {"classID": 1}), "resources.network.classID"),
    "linux.resources.rdma": (put("linux.resources.rdma", {"mlx": {"hcaHandles": 1}}), "resources.rdma"),
    "linux.rootfsPropagation": (
        put("linux.rootfsPropagation", "sideways"),
        "linux.rootfsPropagation: sideways",
    ),
    "mounts option": (
        mount("/data", "bind", "/etc", "bind", "mand"),
        r"options: mand: a bind mount has no such",
    ),
    "mounts data of a bind": (
        mount("/data", "bind", "/etc", "bind", "colour=red"),
        r"options: colour=red: a bind",
    ),
    "hooks": (put("hooks", {"prestart": [{"path": "true"}]}), r"hooks.prestart\[0\].path: it is no absolute"),
    "hooks timeout": (
        put("hooks", {"poststop": [{"path": "/bin/true", "timeout": 0}]}),
        r"hooks.poststop\[0\].timeout: 0",
    ),
    "root.path": (lambda bundle: bundle.config.update(root={"readonly": True}), "root.path: it is missing"),
    "process.apparmorProfile": (
        put("process.apparmorProfile", "own"),
        "apparmorProfile own: this host has no",
    ),
    "mounts data": (mount("/data", "tmpfs", "tmpfs", "colour=red"), "colour"),
    "mounts source": (mount("/data", "bind", "/nowhere", "bind"), "mount /data.*no such file or directory"),
    "mounts over the root": (
        mount("/", "tmpfs", "tmpfs"),
        r"mounts\[7\].destination: nothing is mounted over",
    ),
    "mounts idmap": (mount("/data", "tmpfs", "tmpfs", "idmap"), "only a bind mount can be id-mapped"),
    "linux.resources.memory for nothing": (
        put("linux.resources.memory", {"limit": 4096}),
        "ended at once: out of memory, see linux.resources.memory|memory.limit: ",
    ),
    "linux.resources.memory": (
        put("linux.resources.memory", {"limit": 1 << 20, "swap": 4096}),
        "resources.memory.swap",
    ),
}


#: What some machines refuse and others do.
HAVING: dict[str, Callable[[], bool]] = {
    "process.apparmorProfile": lambda: os.path.exists("/sys/module/apparmor/parameters"),
    "process.selinuxLabel": lambda: os.path.exists("/sys/fs/selinux/enforce"),
    "process.oomScoreAdj": lambda: "CAP_SYS_RESOURCE" in kernel.bounding(),
    "linux.resources.network": lambda: os.path.exists("/sys/fs/cgroup/net_cls"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_is_refused_by_its_name_and_nothing_is_left(shop: Workshop, field: str) -> None:
    change, expected = REFUSED[field]
    if field in HAVING and HAVING[field]():
        pytest.skip("this machine can do it")
    if "resources" in field and not V1:
        pytest.skip("what cgroup v1 does not have")
    bundle = prepared(shop, change, "true")
    said = bundle.run(shop.stead)
    assert said.code == 1
    assert re.search(expected, said.errors), said.errors
    assert not (shop.stead.root / bundle.id).exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{bundle.id}"))


def test_what_the_specification_does_not_know_is_passed_over_with_a_warning(shop: Workshop) -> None:
    bundle = prepared(
        shop, both(put("linux.future", {"x": 1}), capabilities(bounding=["CAP_FUTURE"])), "echo ran"
    )
    said = bundle.run(shop.stead)
    assert said.out == "ran\n"
    assert "linux.future is unknown" in said.errors and "CAP_FUTURE: unknown" in said.errors


def test_each_field_of_the_specification_is_in_the_table_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "oci.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| (honoured|refused)", text, re.MULTILINE))

    def walk(known: object, path: str) -> dict[str, str]:
        if isinstance(known, str):
            return {path: "refused"}
        if isinstance(known, kinds.Kind) or (isinstance(known, dict) and kinds.ANY in known):
            return {path: "honoured"}
        if isinstance(known, list):
            return walk(known[0], path + "[]")
        assert isinstance(known, dict)
        found: dict[str, str] = {}
        for key, inner in known.items():
            found.update(walk(inner, f"{path}.{key}" if path else key))
        return found

    assert rows == walk(fields.FIELDS, "")
