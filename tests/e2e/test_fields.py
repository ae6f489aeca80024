"""What a spec asks for is what the program in the container finds: fields, from the file to the kernel."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from runtime.linux.cgroups import detect
from runtime.linux.limits import Limits
from tests.e2e.conftest import Node, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
    pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="needs a device to hand on"),
]

SPEC = """
x-quiet: &quiet
  image: busy:1
  command: sleep 1000
  stop_grace_period: 0s
network:
  n: {subnet: 10.213.44.0/24, gateway: 10.213.44.254, mtu: 1400, labels: {net: one}}
volume:
  v: {labels: [vol=two]}
container:
  one:
    <<: *quiet
    user: 1000:1001
    group_add: [2000]
    hostname: someone
    domainname: example.org
    environment: {VERSION: 1.10, MODE: 0644, COUNTRY: NO, TIME: 22:22, EMPTY: ""}
    env_file: [more.env]
    working_dir: /made/here
    labels: {a.b: c}
    annotations: {org.example.who: me}
    expose: [80, 53/udp]
    networks:
      n: {aliases: [first], ipv4_address: 10.213.44.7, mac_address: "02:42:ac:11:65:43"}
    dns: [192.0.2.1]
    dns_search: [search.example]
    dns_opt: [ndots:3]
    extra_hosts: ["other:192.0.2.9", "host:host-gateway"]
    cap_drop: [ALL]
    cap_add: [CHOWN]
    security_opt: [no-new-privileges]
    ulimits: {nofile: 99, core: {soft: 0, hard: 0}}
    sysctls: {net.ipv4.ip_default_ttl: 33}
    shm_size: 1m
    stop_signal: SIGINT
    logging: {options: {max-size: 4k, max-file: 2}}
    restart: on-failure:3
    restart_backoff: {initial: 1s, max: 5m, reset_after: 1m}
    cpus: 0.5
    memory: 64m
    memory_swap: 64m
    pids: 20
  two:
    <<: *quiet
    entrypoint: [/bin/busybox]
    read_only: true
    tmpfs: ["/t:size=1m,mode=755", /u]
    volumes:
      - v:/v
      - ./conf:/conf:ro
      - {type: tmpfs, target: /w, read_only: true, tmpfs: {size: 2m, mode: 0700}}
    privileged: true
    network_mode: none
    tty: true
    devices: ["/dev/null:/dev/nothing:r"]
  three:
    <<: *quiet
    network_mode: host
    pid: host
    ipc: host
    uts: host
    replicas: 2
    security_opt: [seccomp=unconfined]
    devices: ["/dev/loop-control:/dev/loops:r"]
  owner:
    <<: *quiet
    init: true
    ipc: shareable
    shm_size: 2m
    hostname: theirs
    volumes: ["v:/v", "/anonymous"]
    command: sh -c 'echo mine >/anonymous/a; sleep 1000'
    oom_score_adj: 321
    hugepages: {2MB: 4m}
    mem_swappiness: 7
    cpu_shares: 512
    device_cgroup_rules: ["c 10:237 r"]
    label_file: more.env
  guest:
    <<: *quiet
    pid: service:owner
    ipc: container:owner
    uts: service:owner
    cgroup: host
    volumes_from: ["owner:ro"]
    env_file: [{path: raw.env, format: raw}]
  bare:
    <<: *quiet
    ipc: none
    security_opt: ["seccomp=seccomp/bare.json", systempaths=unconfined, label=disable]
  off:
    <<: *quiet
    profiles: [tools]
"""

PROFILE = """{
  "defaultAction": "SCMP_ACT_ALLOW",
  "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
}"""

INSIDE = {
    "user": ("one", "id -u; id -g; id -G", "1000\n1001\n1001 2000"),
    "hostname": ("one", "hostname", "someone"),
    "domainname": ("one", "cat /proc/sys/kernel/domainname", "example.org"),
    "environment": (
        "one",
        'echo "$VERSION $MODE $COUNTRY $TIME [$EMPTY] $MORE"',
        "1.10 0644 NO 22:22 [] x y",
    ),
    "working_dir": ("one", "pwd", "/made/here"),
    "ipv4_address": ("one", "ip -o -4 addr show eth0 | grep -o 'inet [^ ]*'", "inet 10.213.44.7/24"),
    "mac_address": ("one", "cat /sys/class/net/eth0/address", "02:42:ac:11:65:43"),
    "mtu": ("one", "cat /sys/class/net/eth0/mtu", "1400"),
    "gateway": ("one", "ip route | grep -o 'default via [^ ]*'", "default via 10.213.44.254"),
    "aliases": ("one", "nslookup first 10.213.44.254 | grep -c 'Address.*10.213.44.7'", "1"),
    "dns": (
        "one",
        "cat /etc/resolv.conf | grep -v '^#'",
        "nameserver 10.213.44.254\nsearch search.example\noptions ndots:3",
    ),
    "extra_hosts": (
        "one",
        "grep -E '(other|host)$' /etc/hosts | grep -v local",
        "192.0.2.9\tother\n10.213.44.254\thost",
    ),
    "capabilities": ("one", "grep CapBnd /proc/self/status | cut -f 2", "0000000000000001"),
    "no-new-privileges": ("one", "grep NoNewPrivs /proc/self/status | cut -f 2", "1"),
    "seccomp": ("one", "grep '^Seccomp:' /proc/self/status | cut -f 2", "2"),
    "ulimits": ("one", "ulimit -n; ulimit -c", "99\n0"),
    "sysctls": ("one", "cat /proc/sys/net/ipv4/ip_default_ttl", "33"),
    "shm_size": ("one", "df -k /dev/shm | awk 'NR==2 {print $2}'", "1024"),
    "read_only": (
        "two",
        "touch /x 2>&1; touch /v/x && echo written",
        "touch: /x: Read-only file system\nwritten",
    ),
    "tmpfs": (
        "two",
        "stat -c %a /t /u /w; df -k /t /w | awk 'NR>1 {print $2}'",
        "755\n1777\n700\n1024\n2048",
    ),
    "bind": ("two", "cat /conf/c; touch /conf/x 2>&1", "content\ntouch: /conf/x: Read-only file system"),
    "read-only tmpfs": ("two", "touch /w/x 2>&1", "touch: /w/x: Read-only file system"),
    "privileged": (
        "two",
        "cd /proc; grep '^Seccomp:' self/status | cut -f 2; test -w sys/kernel/shmmax && echo all",
        "0\nall",
    ),
    "no network": ("two", "ls /sys/class/net", "lo"),
    "entrypoint": ("two", "tr '\\0' ' ' </proc/1/cmdline", "/bin/busybox sleep 1000 "),
    "tty": ("two", "readlink /proc/1/fd/1", "/dev/pts/0"),
    "a device": (
        "three-1",
        ": </dev/loops && echo read; : >/dev/loops",
        "read\nsh: can't create /dev/loops: Operation not permitted",
    ),
    "shared pids": (
        "three-2",
        "test -d /proc/$PPID && test $(ls /proc 2>/dev/null | grep -c '^[0-9]') -gt 3 && echo many",
        "many",
    ),
    "a seccomp profile": (
        "bare",
        "mkdir /tmp/x 2>&1",
        "mkdir: can't create directory '/tmp/x': Operation not permitted",
    ),
    "systempaths": ("bare", "test -w /proc/sys/kernel/shmmax && echo all", "all"),
    "seccomp off": ("three-1", "grep '^Seccomp:' /proc/self/status | cut -f 2", "0"),
    "init": (
        "owner",
        "tr '\\0' ' ' </proc/1/cmdline; sleep 0 & grep PPid /proc/2/status",
        "/sbin/docker-init -- sh -c echo mine >/anonymous/a; sleep 1000 PPid:\t1",
    ),
    "oom_score_adj": ("owner", "cat /proc/1/oom_score_adj /proc/self/oom_score_adj", "321\n321"),
    "processes of another": ("guest", "tr '\\0' ' ' </proc/1/cmdline | cut -c 1-17", "/sbin/docker-init"),
    "host name of another": ("guest", "hostname", "theirs"),
    "memory of another": (
        "guest",
        "df -k /dev/shm | awk 'NR==2 {print $2}'; echo x >/dev/shm/x; cat /proc/1/root/dev/shm/x",
        "2048\nx",
    ),
    "volumes of another": (
        "guest",
        "cat /anonymous/a; touch /v/y 2>&1",
        "mine\ntouch: /v/y: Read-only file system",
    ),
    "raw env_file": ("guest", 'echo "$RAW"', "'$HOME'"),
    "cgroup": ("guest", "cut -d : -f 3 /proc/self/cgroup | sort -u | cut -c 1-13", "/stead.slice/"),
    "ipc none": ("bare", "grep -c /dev/shm /proc/mounts; ls -d /dev/mqueue", "0\n/dev/mqueue"),
    "a device rule": (
        "owner",
        "mknod /tmp/l c 10 237; : </tmp/l && echo read; : >/tmp/l",
        "read\nsh: can't create /tmp/l: Operation not permitted",
    ),
}


def test_each_field_has_its_effect(node: Node) -> None:
    (node.specs / "all.yaml").write_text(SPEC)
    (node.specs / "seccomp").mkdir()
    (node.specs / "seccomp" / "bare.json").write_text(PROFILE)
    (node.specs / "more.env").write_text("MORE='x y'\n")
    (node.specs / "raw.env").write_text("RAW='$HOME'\n")
    (node.specs / "conf").mkdir()
    (node.specs / "conf" / "c").write_text("content\n")
    node.stead("apply", str(node.specs))
    found = {}
    for name in dict.fromkeys(name for name, _, _ in INSIDE.values()):
        found.update(inside(node, name))
    assert found == {field: expected.strip("\n") for field, (_, _, expected) in INSIDE.items()}
    shared_names(node)
    limits(node)
    what_people_see(node)
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"
    it_follows_the_owner_of_its_namespaces(node)


def inside(node: Node, name: str) -> dict[str, str]:
    """What the scripts of one container say, by field; in one session, since each costs a start of Python."""
    tools = 'for t in $(/bin/busybox --list); do alias $t="/bin/busybox $t"; done'
    parts = [
        f"echo; echo '@{field}'; ({script}\n) 2>&1"
        for field, (who, script, _) in INSIDE.items()
        if who == name
    ]
    said = node.stead("exec", name, "sh", "-c", "\n".join([tools, *parts]), code=None)
    pieces = (piece.partition("\n") for piece in f"\n{said}".split("\n@")[1:])
    return {field: text.strip("\n") for field, _, text in pieces}


def limits(node: Node) -> None:
    """As the kernel has them, and changed while it runs."""
    seen = json.loads(node.stead("inspect", "container", "owner"))
    groups, pid = detect(), seen["state"]["pid"]
    found = groups.read_limits(
        f"stead.slice/{seen['id']}", like=Limits(hugepages=(("2MB", 1),), swappiness=7)
    )
    assert (found.hugepages, found.swappiness, found.cpu_weight) == ((("2MB", 4 << 20),), 7, 50)
    assert seen["request"]["labels"] == {"MORE": "x y"}
    changed = SPEC.replace("oom_score_adj: 321", "oom_score_adj: 99").replace("{2MB: 4m}", "{2MB: 8m}")
    (node.specs / "all.yaml").write_text(changed)
    node.stead("apply", str(node.specs))
    found = groups.read_limits(f"stead.slice/{seen['id']}", like=Limits(hugepages=(("2MB", 1),)))
    assert found.hugepages == (("2MB", 8 << 20),)
    assert json.loads(node.stead("inspect", "container", "owner"))["state"]["pid"] == pid
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "99\n"
    assert node.stead("exec", "owner", "/bin/busybox", "cat", "/proc/self/oom_score_adj") == "99\n"
    assert "off" not in node.stead("ps", "--json")
    assert "container default/off" in node.stead("plan", "--profile", "tools", str(node.specs), code=2)


def it_follows_the_owner_of_its_namespaces(node: Node) -> None:
    """The pid namespace ends with its first process: the shim starts the owner, and apply who has it."""
    before = pid_of(node, "owner")
    os.kill(before, 9)
    until(lambda: pid_of(node, "owner") not in (0, before))
    node.stead("apply", str(node.specs))
    owner, guest = pid_of(node, "owner"), pid_of(node, "guest")
    for kind in ("pid", "ipc", "uts"):
        assert os.readlink(f"/proc/{guest}/ns/{kind}") == os.readlink(f"/proc/{owner}/ns/{kind}")
    assert node.stead("plan", str(node.specs)) == "nothing to do\n"


def pid_of(node: Node, name: str) -> int:
    return int(json.loads(node.stead("inspect", "container", name))["state"]["pid"])


def shared_names(node: Node) -> None:
    for kind in ("ipc", "uts", "net", "pid"):
        own = os.readlink(f"/proc/self/ns/{kind}")
        asked = node.stead("exec", "three-1", "/bin/busybox", "readlink", f"/proc/self/ns/{kind}")
        assert asked.strip() == own


def what_people_see(node: Node) -> None:
    seen = json.loads(node.stead("inspect", "container", "one"))
    assert seen["request"]["labels"] == {"a.b": "c"}
    assert seen["request"]["expose"] == ["80/tcp", "53/udp"]
    assert seen["config"]["annotations"]["org.example.who"] == "me"
    supervise = json.loads((node.base / "root/containers" / seen["id"] / "supervise.json").read_text())
    assert supervise["stop_signal"] == "SIGINT"
    assert supervise["restart"] == {
        "policy": "on-failure", "max_retries": 3, "initial": 1.0, "max": 300.0, "reset_after": 60.0,
    }  # fmt: skip
    assert (supervise["log_max_size"], supervise["log_max_files"]) == (4096, 2)
    assert json.loads(node.stead("inspect", "network", "default/n"))["labels"] == {"net": "one"}
    assert json.loads(node.stead("inspect", "volume", "default/v"))["labels"] == {"vol": "two"}
