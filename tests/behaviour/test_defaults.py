"""What a program finds in a container that nobody said anything special about; one answers for all tests."""

from __future__ import annotations

import re

import pytest

from tests.behaviour.engines import Engine

pytestmark = pytest.mark.root

QUESTIONS = {
    "path": "echo $PATH",
    "home": "echo $HOME",
    "hostname": "hostname; cat /etc/hostname; echo; echo $HOSTNAME",
    "term": "echo [$TERM]",
    "id": "id",
    "pwd": "pwd",
    "self": "cat /proc/1/comm",
    "processes": "ls /proc | grep -c '^[0-9]'",
    "hosts": "cat /etc/hosts",
    "writable hosts": "echo 10.1.2.3 written >> /etc/hosts && grep -c written /etc/hosts",
    "resolv": "test -f /etc/resolv.conf && echo there",
    "caps": "sed -n 's/^Cap\\([A-Za-z]*\\):[[:space:]]*/\\1=/p' /proc/1/status",
    "privileges": "sed -n 's/^NoNewPrivs:[[:space:]]*//p;s/^Seccomp:[[:space:]]*/s/p' /proc/1/status",
    "devices": "cd /dev; for i in null zero full random urandom tty ptmx; do test -c $i && echo $i; done",
    "fd": "for name in fd stdin stdout stderr; do readlink /dev/$name; done",
    "disks": "ls /dev | grep -E '^(sd|vd|nvme|mem|kmsg|loop)'",
    "mknod": "mknod /tmp/disk b 8 0; head -c 1 /tmp/disk >/dev/null 2>&1 && echo read",
    "null": "echo x > /dev/null && echo well; head -c 3 /dev/zero | wc -c",
    "shm": "df -k /dev/shm | tail -n 1 | awk '{print $2}'; touch /dev/shm/x && echo writable",
    "mounts": "awk '{print $2, $3}' /proc/mounts",
    "proc options": "awk '$2 == \"/proc\" {print $4}' /proc/mounts",
    "dev options": "awk '$2 == \"/dev\" {print $4}' /proc/mounts",
    "sysfs": "touch /sys/x && echo written; awk '$2 == \"/sys\" {print $4}' /proc/mounts",
    "kcore": "head -c 1 /proc/kcore 2>/dev/null | wc -c",
    "sched": "cat /proc/sched_debug /proc/timer_list 2>/dev/null | wc -c",
    "keys": "wc -c < /proc/keys",
    "sysrq": "echo h > /proc/sysrq-trigger && echo written",
    "proc sys": "echo x > /proc/sys/kernel/hostname && echo written",
    "proc irq": "for path in bus fs irq; do touch /proc/$path/x && echo written; done",
    "firmware": "ls /sys/firmware | wc -l",
    "umask": "umask",
    "mount": "mkdir /tmp/m; mount -t tmpfs none /tmp/m && echo mounted",
    "root": "touch /written && ls /written",
    "chown": "touch /tmp/own; chown 1000:1000 /tmp/own && ls -ln /tmp/own | awk '{print $3, $4}'",
    "links": "ls /sys/class/net | sort | xargs",
    "loopback": "cat /sys/class/net/lo/flags",
    "pgrp": "ps -o pid,pgid,args | awk '$1 == 1 {print $2}'",
    "ipc": "cat /proc/sysvipc/shm | wc -l",
    "tmp": "ls -ld /tmp | cut -c 1-10",
    "oom": "test $(cat /proc/1/oom_score_adj) -ge 0 && echo well",
}


@pytest.fixture(scope="module")
def plain(engine: Engine) -> dict[str, str]:
    return engine.ask(QUESTIONS, "--name", "plain", "--hostname", "box")


def test_the_path_has_the_usual_directories(plain: dict[str, str]) -> None:
    assert plain["path"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_the_home_of_root_is_the_one_of_the_images_passwd(plain: dict[str, str]) -> None:
    assert plain["home"] == "/root"


def test_the_host_name_is_the_one_that_was_said_in_all_three_places(plain: dict[str, str]) -> None:
    assert plain["hostname"].split() == ["box", "box", "box"]


def test_without_a_terminal_there_is_no_kind_of_one(plain: dict[str, str]) -> None:
    assert plain["term"] in ("[]", "[xterm]")


def test_the_program_is_root_unless_the_image_says_otherwise(plain: dict[str, str]) -> None:
    assert plain["id"].startswith("uid=0(root) gid=0(root)")


def test_the_working_directory_is_the_root_unless_the_image_says_otherwise(plain: dict[str, str]) -> None:
    assert plain["pwd"] == "/"


def test_the_program_is_process_1(plain: dict[str, str]) -> None:
    assert plain["self"] == "sh"


def test_it_sees_its_own_processes_only(plain: dict[str, str]) -> None:
    assert int(plain["processes"]) < 8


def test_etc_hosts_has_localhost_and_the_containers_own_name(plain: dict[str, str]) -> None:
    lines = [line.split() for line in plain["hosts"].splitlines() if line and line[0] != "#"]
    assert ["127.0.0.1", "localhost"] in [line[:2] for line in lines]
    assert [line for line in lines if "box" in line[1:] and line[0][0].isdigit()]


def test_etc_hosts_can_be_written(plain: dict[str, str]) -> None:
    assert plain["writable hosts"] == "1"


def test_there_is_a_resolv_conf(plain: dict[str, str]) -> None:
    assert plain["resolv"] == "there"


def test_no_capability_is_ambient_or_inheritable(plain: dict[str, str]) -> None:
    sets = dict(line.split("=") for line in plain["caps"].splitlines())
    assert int(sets["Amb"], 16) == int(sets["Inh"], 16) == 0


def test_the_effective_permitted_and_bounding_sets_are_the_same(plain: dict[str, str]) -> None:
    sets = dict(line.split("=") for line in plain["caps"].splitlines())
    assert sets["Eff"] == sets["Prm"] == sets["Bnd"]


def test_root_may_change_owners_and_bind_low_ports_but_not_administer(plain: dict[str, str]) -> None:
    caps = int(dict(line.split("=") for line in plain["caps"].splitlines())["Eff"], 16)
    chown, kill, bind, net_admin, sys_admin, module, ptrace, time = 0, 5, 10, 12, 21, 16, 19, 25
    assert all(caps >> bit & 1 for bit in (chown, kill, bind))
    assert not any(caps >> bit & 1 for bit in (net_admin, sys_admin, module, ptrace, time))


def test_system_calls_are_filtered(plain: dict[str, str]) -> None:
    assert "s2" in plain["privileges"].split()


def test_the_usual_devices_are_there(plain: dict[str, str]) -> None:
    assert plain["devices"].split() == "null zero full random urandom tty ptmx".split()


def test_dev_has_the_links_to_the_programs_own_descriptors(plain: dict[str, str]) -> None:
    assert plain["fd"].split() == ["/proc/self/fd", *(f"/proc/self/fd/{number}" for number in range(3))]


def test_no_disk_and_no_memory_of_the_host_is_in_dev(plain: dict[str, str]) -> None:
    assert plain["disks"] == ""


def test_a_disk_that_root_makes_a_node_of_cannot_be_read(plain: dict[str, str]) -> None:
    assert "read" not in plain["mknod"].split()


def test_null_and_zero_work(plain: dict[str, str]) -> None:
    assert plain["null"].split() == ["well", "3"]


def test_dev_shm_is_64_mib_and_writable(plain: dict[str, str]) -> None:
    assert plain["shm"].split() in (["65536", "writable"], ["64000", "writable"])


@pytest.mark.parametrize(
    "mount", ["/proc proc", "/dev tmpfs", "/dev/pts devpts", "/dev/mqueue mqueue", "/sys sysfs"]
)
def test_the_kernels_file_systems_are_mounted(plain: dict[str, str], mount: str) -> None:
    assert mount in plain["mounts"].splitlines()


def test_the_root_is_an_overlay(plain: dict[str, str]) -> None:
    assert "/ overlay" in plain["mounts"].splitlines()


def test_proc_has_no_devices_programs_or_set_user_ids(plain: dict[str, str]) -> None:
    assert {"nosuid", "nodev", "noexec"} <= set(plain["proc options"].splitlines()[0].split(","))


def test_dev_has_no_set_user_ids(plain: dict[str, str]) -> None:
    assert "nosuid" in plain["dev options"].split(",")


def test_sys_cannot_be_written(plain: dict[str, str]) -> None:
    assert "written" not in plain["sysfs"] and "ro" in plain["sysfs"].splitlines()[-1].split(",")


def test_the_kernels_memory_is_hidden(plain: dict[str, str]) -> None:
    assert plain["kcore"] == "0"


def test_the_kernels_timers_and_schedule_are_hidden(plain: dict[str, str]) -> None:
    assert plain["sched"] == "0"


def test_keys_of_the_host_are_hidden(plain: dict[str, str]) -> None:
    assert plain["keys"].split()[-1] == "0"


def test_the_machine_cannot_be_rebooted_by_sysrq(plain: dict[str, str]) -> None:
    assert "written" not in plain["sysrq"].splitlines()


def test_kernel_settings_cannot_be_written(plain: dict[str, str]) -> None:
    assert "written" not in plain["proc sys"].splitlines()


def test_bus_fs_and_irq_of_proc_cannot_be_written(plain: dict[str, str]) -> None:
    assert "written" not in plain["proc irq"].splitlines()


def test_firmware_is_hidden(plain: dict[str, str]) -> None:
    assert plain["firmware"].split()[-1] == "0"


def test_the_umask_is_022(plain: dict[str, str]) -> None:
    assert int(plain["umask"], 8) == 0o022


def test_root_may_not_mount(plain: dict[str, str]) -> None:
    assert "mounted" not in plain["mount"].splitlines()


def test_the_root_can_be_written(plain: dict[str, str]) -> None:
    assert plain["root"] == "/written"


def test_owners_of_files_can_be_changed(plain: dict[str, str]) -> None:
    assert plain["chown"] == "1000 1000"


def test_without_a_network_there_is_loopback_only(engine: Engine) -> None:
    assert engine.sh("ls /sys/class/net; cat /sys/class/net/lo/flags").out.split() == ["lo", "0x9"]


def test_the_default_network_is_an_interface_called_eth0(plain: dict[str, str]) -> None:
    assert plain["links"] == "eth0 lo"


def test_the_loopback_is_up(plain: dict[str, str]) -> None:
    assert plain["loopback"] == "0x9"


def test_the_program_leads_a_session_of_its_own(plain: dict[str, str]) -> None:
    assert plain["pgrp"] == "1"


def test_shared_memory_of_the_host_is_not_seen(plain: dict[str, str]) -> None:
    assert plain["ipc"] == "1"


def test_tmp_is_as_the_image_has_it(plain: dict[str, str]) -> None:
    assert plain["tmp"] == "drwxrwxrwt"


def test_it_is_not_spared_when_memory_is_short(plain: dict[str, str]) -> None:
    assert plain["oom"] == "well"


def test_a_container_without_a_name_gets_one(engine: Engine) -> None:
    id = engine.do("create", "--network", "none", "bench/busybox:1", "true")
    try:
        assert re.fullmatch(r"/?[a-z0-9_.-]{4,}", engine.field(id, "{{.Name}}"))
    finally:
        engine.forget(id)
