"""What options of `run` change within a container: environment, user, limits, files, walls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.behaviour.engines import CONFIGURED, IMAGE, Engine

pytestmark = pytest.mark.root

#: One container with many options that do not touch each other.
MANY = (
    *("--hostname", "box", "-w", "/home", "-u", "web"),
    *(
        "-e",
        "PLAIN=1",
        "-e",
        "EMPTY=",
        "-e",
        "SPACES=a  b=c",
        "-e",
        "NEVER_SET_HERE",
        "-e",
        "PATH=/bin:/mine",
    ),
    *("--ulimit", "core=0:0", "--ulimit", "nofile=512:600"),
    *("--shm-size", "2m", "--tmpfs", "/scratch:size=1m,mode=1777", "--tmpfs", "/plain"),
    *("--sysctl", "kernel.shm_rmid_forced=1", "--group-add", "extra", "--group-add", "4711"),
    *("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--security-opt", "no-new-privileges"),
    *(
        "--add-host",
        "other:10.9.8.7",
        "--dns",
        "10.1.1.1",
        "--dns-search",
        "example.org",
        "--dns-option",
        "ndots:3",
    ),
    *("--oom-score-adj", "300", "-m", "64m", "--pids-limit", "50", "--cpuset-cpus", "0"),
    *("--cpu-shares", "512", "--cpus", "0.5", "--init"),
    *("--label", "tier=front"),
)
QUESTIONS = {
    "environment": "env",
    "home": "echo $HOME",
    "pwd": "pwd",
    "id": "id",
    "shm": "df -k /dev/shm | tail -n 1 | awk '{print $2}'",
    "scratch": "df -k /scratch | tail -n 1 | awk '{print $2}'; ls -ld /scratch | cut -c 1-10",
    "tmpfs options": "awk '$2 == \"/plain\" {print $3, $4}' /proc/mounts",
    "ulimits": "ulimit -c; ulimit -Sn; ulimit -Hn",
    "sysctl": "cat /proc/sys/kernel/shm_rmid_forced",
    "groups": "id -G | tr ' ' '\\n' | sort -n | xargs",
    "status": "cat /proc/self/status",
    "hosts": "cat /etc/hosts",
    "resolv": "cat /etc/resolv.conf",
    "oom": "cat /proc/self/oom_score_adj",
    "cpus": "sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status",
    "memory": "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
    "pids": "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max",
    "quota": "cd /sys/fs/cgroup/cpu && echo $(cat cpu.cfs_quota_us) $(cat cpu.cfs_period_us)",
    "init": "cat /proc/1/comm; test $$ != 1 && echo behind",
}


FILTER = "sed -n 's/^Seccomp:[[:space:]]*//p' /proc/1/status"
CAPABILITIES = "sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status"


@pytest.fixture(scope="module")
def many(engine: Engine) -> dict[str, str]:
    return engine.ask(QUESTIONS, *MANY)


def _status(many: dict[str, str], key: str) -> str:
    return next(line for line in many["status"].splitlines() if line.startswith(f"{key}:")).split()[1]


def test_variables_are_as_they_were_said(many: dict[str, str]) -> None:
    lines = many["environment"].splitlines()
    assert "PLAIN=1" in lines and "EMPTY=" in lines and "SPACES=a  b=c" in lines


def test_a_variable_without_a_value_that_is_not_set_here_is_left_out(many: dict[str, str]) -> None:
    assert "NEVER_SET_HERE" not in many["environment"]


def test_a_path_that_is_said_takes_the_place_of_the_usual_one(many: dict[str, str]) -> None:
    assert "PATH=/bin:/mine" in many["environment"].splitlines()


def test_home_is_the_users_own(many: dict[str, str]) -> None:
    assert many["home"] == "/home"


def test_a_working_directory_is_the_programs(many: dict[str, str]) -> None:
    assert many["pwd"] == "/home"


@pytest.mark.differs("it wants one that is there", "podman")
def test_a_working_directory_that_is_not_there_is_made(engine: Engine) -> None:
    assert engine.sh("pwd", "-w", "/made/here").out == "/made/here\n"


def test_a_user_is_looked_up_in_the_images_passwd(many: dict[str, str]) -> None:
    assert "uid=1000(web) gid=1000(web)" in many["id"]


def test_added_groups_may_be_names_and_numbers(many: dict[str, str]) -> None:
    assert {"1000", "2000", "4711"} <= set(many["groups"].split())


def test_shm_size_is_the_size_of_dev_shm(many: dict[str, str]) -> None:
    assert many["shm"] == "2048"


def test_a_tmpfs_has_its_size_and_mode(many: dict[str, str]) -> None:
    assert many["scratch"].split() == ["1024", "drwxrwxrwt"]


def test_a_tmpfs_has_no_devices_and_no_set_user_ids(many: dict[str, str]) -> None:
    kind, options = many["tmpfs options"].split()
    assert kind == "tmpfs" and {"rw", "nosuid", "nodev"} <= set(options.split(","))


def test_ulimits_have_a_soft_and_a_hard_end(many: dict[str, str]) -> None:
    assert many["ulimits"].split() == ["0", "512", "600"]


def test_a_sysctl_is_set_in_the_containers_own_namespace(many: dict[str, str]) -> None:
    assert many["sysctl"] == "1"


def test_a_capability_can_be_added_and_another_taken_away(many: dict[str, str]) -> None:
    bounding = int(_status(many, "CapBnd"), 16)
    assert bounding >> 12 & 1 and not bounding >> 0 & 1


def test_a_user_who_is_not_root_has_no_capability_in_effect(many: dict[str, str]) -> None:
    kill = 5
    assert not int(_status(many, "CapEff"), 16) >> kill & 1


def test_no_new_privileges_holds(many: dict[str, str]) -> None:
    assert _status(many, "NoNewPrivs") == "1"


def test_an_added_host_is_in_etc_hosts(many: dict[str, str]) -> None:
    assert ["10.9.8.7", "other"] in [line.split() for line in many["hosts"].splitlines()]


def test_domains_and_options_of_names_are_in_resolv_conf(many: dict[str, str]) -> None:
    lines = [line.split() for line in many["resolv"].splitlines()]
    assert ["search", "example.org"] in lines
    assert [line for line in lines if line[:1] == ["options"] and "ndots:3" in line]


@pytest.mark.differs("Names of containers resolve on every network", "stead")
def test_name_servers_are_in_resolv_conf(engine: Engine, many: dict[str, str]) -> None:
    assert ["nameserver", "10.1.1.1"] in [line.split() for line in many["resolv"].splitlines()]


def test_an_oom_score_is_the_programs(many: dict[str, str]) -> None:
    assert many["oom"] == "300"


def test_a_cpuset_is_seen_from_within(many: dict[str, str]) -> None:
    assert many["cpus"] == "0"


def test_a_memory_limit_is_seen_from_within(many: dict[str, str]) -> None:
    assert many["memory"] == str(64 << 20)


def test_a_limit_of_processes_is_seen_from_within(many: dict[str, str]) -> None:
    assert many["pids"] == "50"


def test_cpus_are_a_quota_of_a_period(many: dict[str, str]) -> None:
    assert many["quota"].split() == ["50000", "100000"]


def test_an_init_is_process_1_and_the_program_its_child(many: dict[str, str]) -> None:
    name, behind = many["init"].splitlines()
    assert "init" in name or "catatonit" in name or "tini" in name
    assert behind == "behind"


# -------------------------------------------------------------- what the image says, and what is said instead


def test_environment_working_directory_and_user_are_inherited_from_the_image(engine: Engine) -> None:
    said = engine.ask({"env": "env", "pwd": "pwd", "id": "id -u"}, "--network", "none", image=CONFIGURED)
    lines = said["env"].splitlines()
    assert "FROM_IMAGE=image" in lines and "OTHER=kept" in lines
    assert (said["pwd"], said["id"]) == ("/srv/work", "1000")


def test_what_is_said_takes_the_place_of_what_the_image_says(engine: Engine) -> None:
    options = ("-e", "FROM_IMAGE=mine", "-w", "/tmp", "-u", "0", "--network", "none")
    said = engine.ask({"env": "env", "pwd": "pwd", "id": "id -u"}, *options, image=CONFIGURED)
    assert "FROM_IMAGE=mine" in said["env"].splitlines() and "OTHER=kept" in said["env"].splitlines()
    assert (said["pwd"], said["id"]) == ("/tmp", "0")


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("1000", "1000 1000"),
        ("web:extra", "1000 2000"),
        ("4711", "4711 0"),
        ("4711:4712", "4711 4712"),
        ("web:0", "1000 0"),
    ],
)
def test_a_user_may_be_a_name_or_a_number_with_a_group_or_without(
    engine: Engine, user: str, found: str
) -> None:
    assert engine.sh("echo $(id -u) $(id -g)", "-u", user).out.strip() == found


def test_a_user_gets_the_groups_that_the_image_lists_him_in(engine: Engine) -> None:
    assert engine.sh("id -G", "-u", "web").out.split() == ["1000", "2000"]


def test_a_user_that_the_image_does_not_know_is_refused(engine: Engine) -> None:
    assert engine.sh("true", "-u", "nobody-here").code in (125, 126)


def test_variables_come_from_a_file_with_comments(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nONE=1\n\nTWO=a b\nEMPTY=\n")
    lines = engine.sh("env", "--env-file", str(tmp_path / "env"), "-e", "ONE=later").out.splitlines()
    assert "ONE=later" in lines and "TWO=a b" in lines and "EMPTY=" in lines


def test_a_variable_without_a_value_comes_from_here(engine: Engine) -> None:
    words = ("run", "--rm", "--network", "none", "-e", "FROM_HERE", IMAGE, "sh", "-c", "echo $FROM_HERE")
    assert engine.call(*words, environment={"FROM_HERE": "yes"}).out == "yes\n"


# ---------------------------------------------------------------- walls that are moved


def test_a_read_only_root_cannot_be_written_but_its_tmpfs_and_dev_can(engine: Engine) -> None:
    script = "touch /x 2>/dev/null || echo refused; touch /t/x /dev/shm/x && echo written"
    assert engine.sh(script, "--read-only", "--tmpfs", "/t").out.split() == ["refused", "written"]


def test_etc_hosts_is_there_with_a_read_only_root(engine: Engine) -> None:
    assert engine.sh("grep -c localhost /etc/hosts", "--read-only").code == 0


def test_all_capabilities_can_be_taken_away(engine: Engine) -> None:
    script = f"{CAPABILITIES}; chown 1:1 /etc/passwd 2>/dev/null || echo refused"
    assert engine.sh(script, "--cap-drop", "ALL").out.split() == ["0" * 16, "refused"]


def test_one_capability_can_be_kept_of_none(engine: Engine) -> None:
    said = engine.sh("chown 1:1 /etc/passwd && echo done", "--cap-drop", "ALL", "--cap-add", "CHOWN")
    assert said.out == "done\n"


def test_a_capability_that_does_not_exist_is_refused(engine: Engine) -> None:
    engine.fails("run", "--rm", "--cap-add", "FLYING", IMAGE, "true", code=125)


@pytest.mark.differs("needs CAP_SYS_RESOURCE on the host", "docker")
def test_a_privileged_container_may_mount_and_is_not_filtered(engine: Engine) -> None:
    script = f"mount -t tmpfs none /tmp && echo mounted; {FILTER}"
    assert engine.sh(script, "--privileged").out.split() == ["mounted", "0"]


def test_seccomp_can_be_turned_off(engine: Engine) -> None:
    assert engine.sh(FILTER, "--security-opt", "seccomp=unconfined").out.strip() == "0"


def test_a_device_of_the_host_can_be_lent_under_another_name(engine: Engine) -> None:
    assert engine.sh("head -c 4 /dev/mine | wc -c", "--device", "/dev/zero:/dev/mine").out.strip() == "4"


def test_a_device_that_may_be_read_only_cannot_be_written(engine: Engine) -> None:
    said = engine.sh(
        "(echo x > /dev/mine) 2>/dev/null || echo refused", "--device", "/dev/loop-control:/dev/mine:r"
    )
    assert said.code == 125 or said.out == "refused\n"


def test_the_hosts_pid_namespace_shows_the_hosts_processes(engine: Engine) -> None:
    assert engine.sh("readlink /proc/self/ns/pid", "--pid", "host").out.strip() == _namespace("pid")


def test_the_hosts_uts_namespace_is_the_hosts_name(engine: Engine) -> None:
    assert engine.sh("readlink /proc/self/ns/uts", "--uts", "host").out.strip() == _namespace("uts")


def test_the_hosts_ipc_namespace_is_shared(engine: Engine) -> None:
    assert engine.sh("readlink /proc/self/ns/ipc", "--ipc", "host").out.strip() == _namespace("ipc")


def _namespace(kind: str) -> str:
    return str(Path(f"/proc/self/ns/{kind}").readlink())


def test_a_sysctl_that_is_the_whole_machines_is_refused(engine: Engine) -> None:
    assert engine.sh("true", "--sysctl", "kernel.panic=7").code != 0


@pytest.mark.differs("its runc tells nobody of the kill on cgroup v1", "podman")
def test_memory_beyond_the_limit_kills_the_program(engine: Engine, name: str) -> None:
    words = ("run", "--name", name, "--network", "none", "-m", "16m", "--memory-swap", "16m", IMAGE)
    assert engine.call(*words, "sh", "-c", "exec tail -c 200000000 /dev/zero").code == 137
    assert engine.field(name, "{{.State.OOMKilled}}") == "true"


def test_more_processes_than_the_limit_are_refused(engine: Engine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; wait"
    assert "an't fork" in engine.sh(script, "--pids-limit", "5").errors


@pytest.mark.differs("it finds out at the start", "podman")
def test_a_limit_of_memory_below_what_is_possible_is_refused(engine: Engine) -> None:
    engine.fails("create", "-m", "1k", IMAGE, "true")
