"""A stock machine, `./setup install`, a pushed commit: what the README promises."""

from __future__ import annotations

import pytest

from tests.vm.machine import Node

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.timeout(800, func_only=True)]


@pytest.mark.timeout(1500, func_only=True)
def test_a_pushed_commit_deploys_on_a_stock_machine(node: Node) -> None:
    assert node.before.split("\n")[:5] == [
        "no modules",
        "0",
        "memory pids",
        "nameserver 127.0.0.53",
        "cgroup2fs",
    ]
    assert "setup: installed" in node.installed
    found = node.settle()
    assert {name: row["phase"] for name, row in found.items()} == {"web": "running", "tick": "running"}
    loaded = node.run("lsmod | cut -d ' ' -f 1").split()
    assert {"overlay", "bridge", "nf_tables"} <= set(loaded)
    assert node.run("cat /proc/sys/net/ipv4/ip_forward") == "1\n"
    controllers = node.run("cat /sys/fs/cgroup/stead.slice/cgroup.subtree_control").split()
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers)


def test_what_was_asked_for_is_shown(node: Node) -> None:
    node.settle()
    text = node.run("stead status")
    assert text.startswith("converged, agent ") and "\nshop " in text
    node.until(lambda: node.ps()["web"]["health"] == "healthy", "web is healthy")
    rows = {line.split()[-1]: line for line in node.run("stead ps").splitlines()[1:]}
    words = rows["shop/web"].split()
    assert words[1] == "busy:1" and words[-2] == "0.0.0.0:8080->80/tcp"
    assert " Up " in rows["shop/web"] and " (healthy) " in rows["shop/web"]
    assert "was never started" in node.run("stead explain web")


def test_a_published_port_answers_on_every_address_of_the_machine(node: Node) -> None:
    node.settle()
    own = node.run("ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'").strip()
    for address in ("127.0.0.1", own):
        assert node.run(f"curl -sf --max-time 20 http://{address}:8080/") == "well\n"
    for name, url in (("tick", "web:80"), ("tick", f"{own}:8080"), ("web", f"{own}:8080")):
        assert node.run(f"stead exec {name} wget -q -O - http://{url}/") == "well\n"


def test_the_hosts_connections_by_loopback_take_the_shortcut(node: Node) -> None:
    """Under systemd and an older kernel: the way leads out by the bridge, and says 127.0.0.1."""
    node.settle()
    bridge = node.run("stead exec tick cat /etc/resolv.conf | grep ^nameserver").split()[1]
    said = node.run("curl -sf --max-time 20 -w '%{local_ip} %{remote_ip}' http://127.0.0.1:8080/")
    assert said == f"well\n{bridge} 127.0.0.1"


def test_a_container_asks_the_name_server_of_its_network(node: Node) -> None:
    node.settle()
    asked = node.run("stead exec tick cat /etc/resolv.conf | grep ^nameserver").split()[1]
    assert f" {asked}/" in node.run("ip -4 -o address")
    answer = node.run("stead exec tick nslookup web", code=None)
    address = node.run("stead exec web cat /etc/hosts | grep -w web").split()[0]
    assert f"Name:\tweb\nAddress: {address}\n" in answer


def test_a_container_is_confined(node: Node) -> None:
    """The filter of system calls, capabilities, and the device program of cgroup v2: a node of the machine's
    disk may be made, but not opened.
    """
    node.settle()
    status = node.run("stead exec tick cat /proc/1/status")
    assert "Seccomp:\t2" in status and "CapEff:\t00000000a80425fb" in status
    assert "not permitted" in node.run("stead exec tick unshare -U true", code=None)
    assert "mount: permission denied" in node.run("stead exec tick mount -t tmpfs x /tmp", code=None)
    numbers = node.run("stat -c '%Hr %Lr' /dev/vda").strip()
    script = f"mknod /tmp/disk b {numbers} && ls /tmp/disk && head -c 1 /tmp/disk"
    text = node.run(f"stead exec tick sh -c '{script}'", code=1)
    assert text == "/tmp/disk\nhead: /tmp/disk: Operation not permitted\n"
    assert node.run(f"mknod disk b {numbers}; head -c 1024 disk | wc -c; rm disk").strip() == "1024"


def test_installing_again_disturbs_nothing(node: Node) -> None:
    before, agent = node.settle(), node.main_pid()
    assert "setup: installed" in node.setup("install")
    assert node.main_pid() == agent
    assert node.ps() == before


def test_the_journal_tells_levels_and_complains_of_nothing(node: Node) -> None:
    node.settle()
    assert node.warnings("2000-01-01") == ""
    said = node.run("journalctl -b -u stead --no-pager -o cat")
    assert "start container shop/web: was never started" in said and "converged: 2 containers" in said
    assert "<6>" not in said and "INFO" not in said and "server process" not in said


SSH = """
[ -e deploy.key ] || ssh-keygen -q -t ed25519 -N '' -f deploy.key
cat deploy.key.pub >>/root/.ssh/authorized_keys
cp /etc/stead/stead.toml stead.toml.before
location='git = "ssh://root@127.0.0.1/srv/shop.git"' key='ssh_key = "/root/deploy.key"'
sed -i "s|^git = .*|$location\\n$key|" /etc/stead/stead.toml
systemctl restart stead
"""


def test_a_repository_is_reached_by_ssh_with_the_key_of_a_file(node: Node) -> None:
    before = node.settle()
    node.run(SSH)
    try:
        note = '[network.by_ssh]\nlabels = { by = "ssh" }\n'
        revision = node.commit({"note.toml": f'project = "shop"\n{note}'})
        after = node.settle()
        (source,) = node.status()["sources"]
        assert (source["revision"], source["fetch_error"]) == (revision, "")
        assert source["location"] == "ssh://root@127.0.0.1/srv/shop.git"
        assert after == before
    finally:
        node.run("cp stead.toml.before /etc/stead/stead.toml; systemctl restart stead")
        node.commit({}, remove=["note.toml"])
