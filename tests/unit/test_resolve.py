"""Files become one Desired: projects, names, references over files, conflicts, cycles; or all problems."""

from __future__ import annotations

import re

import pytest

from specs.resolve import project_of
from tests.spec_text import desired_of, problems, read

A = '[container.a]\nimage = "i"\n'


@pytest.mark.parametrize(
    ("path", "project"),
    [
        ("x.toml", "default"),
        ("shop/x.toml", "shop"),
        ("shop/db/x.toml", "shop-db"),
        ("My Shop/v1.2/x.toml", "myshop-v1-2"),
        ("_/x.toml", "default"),
        ("ä/x.toml", "default"),
        ("a" * 80 + "/x.toml", "a" * 63),
    ],
)
def test_a_file_without_a_project_is_in_that_of_its_directory(path: str, project: str) -> None:
    assert project_of(path) == project


def test_a_file_names_its_project_for_all_that_it_declares() -> None:
    desired = desired_of({"db/x.toml": f'project = "shop"\n{A}[network.n]\n[volume.v]\n'})
    assert list(desired.containers) == ["shop/a"]
    assert sorted(desired.networks) == ["shop/default", "shop/n"]
    assert list(desired.volumes) == ["shop/v"]


def test_each_document_of_a_yaml_file_has_a_project_of_its_own() -> None:
    text = "project: p\ncontainer: {a: {image: i}}\n---\nproject: q\ncontainer: {a: {image: i}}\n"
    assert list(desired_of({"a.yaml": text}).containers) == ["p/a", "q/a"]


def test_names_are_found_over_files_and_projects() -> None:
    files = {
        "shop/web.toml": '[container.web]\nimage = "i"\nnetworks = ["back", "ops/watch"]\n'
        'volumes = ["data:/d", "ops/logs:/l"]\ndepends_on = ["db", "ops/agent"]\n',
        "shop/db.yaml": "container: {db: {image: i}}\nnetwork: {back: }\nvolume: {data: }\n",
        "ops/all.toml": '[network.watch]\n[volume.logs]\n[container.agent]\nimage = "i"\n',
    }
    web = desired_of(files).containers["shop/web"]
    assert [one.network for one in web.networks] == ["shop/back", "ops/watch"]
    assert [one.source for one in web.mounts] == ["shop/data", "ops/logs"]
    assert [one.container for one in web.depends_on] == ["shop/db", "ops/agent"]


def test_the_nearest_known_name_is_a_hint() -> None:
    files = {
        "p/a.toml": A + 'networks = ["frnt", "q/bakc"]\n',
        "p/b.toml": "[network.front]\n",
        "q/b.toml": "[network.back]\n",
    }
    assert read(files)[1] == [
        "p/a.toml:3:13: container.a.networks[0]: no network 'frnt' (did you mean 'front'?)",
        "p/a.toml:3:21: container.a.networks[1]: no network 'q/bakc' (did you mean 'q/back'?)",
    ]


@pytest.mark.parametrize("kind", ["container", "network", "volume", "image"])
def test_a_name_that_is_declared_twice_shows_both_places(kind: str) -> None:
    body = {"container": 'image = "i"\n', "image": 'from = "i"\n'}.get(kind, "")
    files = {"p/a.toml": f"[{kind}.x]\n{body}", "b.toml": f'project = "p"\n\n[{kind}.x]\n{body}'}
    expected = f"p/a.toml:1:1: {kind} 'p/x' is declared twice; it stands in b.toml:3 too"
    assert read(files)[1] == [expected]


def test_a_replica_may_not_take_another_container_s_name() -> None:
    text = f'{A}replicas = 2\n[container.a-2]\nimage = "i"\n'
    assert read({"a.toml": text})[1] == [
        "a.toml:4:1: container.a-2: a replica has the name 'default/a-2', which a.toml:1 has too"
    ]


@pytest.mark.parametrize(
    ("waits", "cycles"),
    [
        ({"a": "b", "b": "c"}, []),
        ({"a": "a"}, ["p/a -> p/a"]),
        ({"a": "b", "b": "c", "c": "b"}, ["p/b -> p/c -> p/b"]),
        ({"a": "b", "b": "a", "c": "d", "d": "c"}, ["p/a -> p/b -> p/a", "p/c -> p/d -> p/c"]),
    ],
)
def test_containers_that_wait_for_each_other_are_a_problem(waits: dict[str, str], cycles: list[str]) -> None:
    names = sorted({*waits, *waits.values()})
    bodies = [
        f'[container.{n}]\nimage = "i"\n' + (f'depends_on = ["{waits[n]}"]\n' if n in waits else "")
        for n in names
    ]
    found = read({"p/a.toml": "".join(bodies)})[1]
    shown = [line.split("each other: ")[1] for line in found]
    assert [re.sub(r" \(p/a\.toml:[0-9]+\)", "", line) for line in shown] == cycles
    assert [line.count("(p/a.toml:") for line in shown] == [line.count("->") for line in cycles]


def test_what_is_always_started_anew_never_completes() -> None:
    init = '[container.init]\nimage = "i"\n'
    text = f'{init}[container.web]\nimage = "i"\ndepends_on = {{ init = "completed" }}\n'
    assert read({"p/a.toml": text})[1] == [
        "p/a.toml:5:1: container.web.depends_on: p/init (p/a.toml:1) never completes: its restart policy is "
        'always (write restart = "on-failure" or "no" in p/init)'
    ]
    once = text.replace(init, init + 'restart = "on-failure"\n')
    assert read({"p/a.toml": once})[1] == []


def test_a_long_chain_of_dependencies_is_no_problem() -> None:
    bodies = [f'[container.c{n}]\nimage = "i"\ndepends_on = ["c{n + 1}"]\n' for n in range(1500)]
    desired_of({"a.toml": "".join(bodies) + '[container.c1500]\nimage = "i"\n'})


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("80:1", "80:2", True),
        ("80:1", "127.0.0.1:80:2", True),
        ("0.0.0.0:80:1", "127.0.0.1:80:2", True),
        ("127.0.0.1:80:1", "127.0.0.2:80:1", False),
        ("80:1", "80:1/udp", False),
        ("80-82:1-3", "82:9", True),
        ("80:1", "81:1", False),
        ("80", "80", False),
        ("80-82:1", "80-82:1", False),
        ("80:1/sctp", "80:1/sctp", True),
    ],
)
def test_two_containers_cannot_publish_one_port(one: str, other: str, clash: bool) -> None:
    files = {"p/a.toml": f'{A}ports = ["{one}"]\n', "q/a.toml": f'{A}ports = ["{other}"]\n'}
    found = read(files)[1]
    assert bool(found) == clash
    if clash:
        assert found[0].startswith("q/a.toml:3:10: container.a.ports[0]: host port 8")
        assert found[0].endswith("is published by 'p/a' (p/a.toml:1) already")


def test_replicas_share_their_ports_and_nobody_else_does() -> None:
    more = 'networks = ["six"]\nreplicas = 2\n[network.six]\nenable_ipv6 = true\n'
    text = f'{A}ports = ["80:1", "[::1]:81:1", "0.0.0.0:82:1", "[::]:82:1"]\n{more}'
    assert read({"p/a.toml": text})[1] == []
    both = {"p/a.toml": text, "q/a.toml": f'{A}ports = ["127.0.0.1:80:1"]\n'}
    found = read(both)[1]
    assert len(found) == 1 and "is published by 'p/a-1' (p/a.toml:1) already" in found[0]


def test_a_port_on_an_ipv6_address_needs_a_network_with_ipv6() -> None:
    (found,) = problems('ports = ["80:1", "[::1]:81:1"]')
    assert found.endswith(
        "ports[1]: port [::1]:81:1/tcp is for IPv6, and no network of the container has it"
        " (set enable_ipv6 on its network)"
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('update.order = "start-first"', ""),
        ('deploy.update_config.order = "start-first"', ""),
        (
            'update.order = "start-first"\nnetwork_mode = "host"',
            "two of it cannot have network_mode 'host' at once",
        ),
        (
            'update.order = "start-first"\nnetworks.default.mac_address = "02:00:00:00:00:01"',
            "two of it cannot have mac_address in network 'default' at once",
        ),
        (
            'update.order = "stop-first"\ndeploy.update_config.order = "start-first"',
            "`update` says the same; leave one out",
        ),
    ],
)
def test_start_first_is_for_what_can_be_there_twice(lines: str, expected: str) -> None:
    found = problems(lines)
    assert len(found) == bool(expected)
    assert all(expected in text for text in found)


def test_one_container_cannot_publish_a_port_twice() -> None:
    (found,) = problems('ports = ["80:1", "80:2"]')
    assert found.endswith("ports[1]: host port 80/tcp is published by this container already")


def test_networks_of_one_source_do_not_overlap() -> None:
    text = '[network.a]\nsubnet = "10.1.0.0/16"\n[network.b]\nsubnet = "10.1.2.0/24"\n'
    assert read({"p/a.toml": text})[1] == [
        "p/a.toml:4:10: network.b.subnet: "
        "subnet 10.1.2.0/24 overlaps 10.1.0.0/16 of network 'p/a' (p/a.toml:1)"
    ]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("10.1.0.9", ""),
        ("10.2.0.9", "10.2.0.9 is not a host address of 10.1.0.0/24"),
        ("10.1.0.0", "10.1.0.0 is not a host address of 10.1.0.0/24"),
        ("10.1.0.255", "10.1.0.255 is not a host address of 10.1.0.0/24"),
        ("10.1.0.1", "10.1.0.1 is the gateway of network 'n'"),
        ("10.1.0.7", "10.1.0.7 is asked for by 'p/b' already (p/n.toml:3)"),
    ],
)
def test_an_address_that_is_asked_for_can_be_given(address: str, problem: str) -> None:
    files = {
        "p/n.toml": '[network.n]\nsubnet = "10.1.0.0/24"\n'
        '[container.b]\nimage = "i"\nnetworks.n.ipv4_address = "10.1.0.7"\n',
        "p/z.toml": f'[container.z]\nimage = "i"\nnetworks.n.ipv4_address = "{address}"\n',
    }
    found = read(files)[1]
    assert [line.split("ipv4_address: ")[1] for line in found] == ([problem] if problem else [])
    assert all(line.startswith("p/z.toml:3:27: ") for line in found)


def test_one_image_is_wanted_for_one_platform() -> None:
    text = f'{A}platform = "linux/arm64"\n[container.b]\nimage = "i"\nplatform = "linux/amd64"\n'
    (found,) = read({"a.toml": text})[1]
    assert found == (
        "a.toml:6:12: container.b.platform: image 'i:latest' is wanted for linux/amd64 here"
        " and linux/arm64 in a.toml:1"
    )


@pytest.mark.parametrize(
    "name", ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml", "app/compose.yaml"]
)
def test_a_compose_file_is_refused_at_its_place_and_never_ignored(name: str) -> None:
    (found,) = read({name: "services: {}\n", "a.toml": A})[1]
    assert found.startswith(f"{name}:1:1: a Compose file: not supported yet (")
    assert read({name: "services: {}\n", "a.toml": A, ".steadignore": f"{name}\n"})[1] == []


def test_a_compose_file_of_another_name_is_refused_key_by_key() -> None:
    text = "name: shop\nversion: '3'\nservices: {web: {image: i}}\nvolumes: {v: }\ninclude: [x]\n"
    assert read({"prod.yaml": text})[1] == [
        "prod.yaml:1:1: the file: unknown key 'name' (write `project`)",
        "prod.yaml:2:1: the file: unknown key 'version' (leave it out)",
        "prod.yaml:3:1: the file: unknown key 'services' (write `container`)",
        "prod.yaml:4:1: the file: unknown key 'volumes' (write `volume`)",
        "prod.yaml:5:1: include: not supported yet",
    ]


def test_one_mistake_hides_no_other_one() -> None:
    text = (
        'project = "P"\nfoo = 1\n[container.a]\nimage = "I"\nmemory = "x"\nnetworks = ["no"]\n'
        'volumes = ["wrong", "none:/d"]\ndepends_on = { c = "healthy", b = "wrong" }\nsecrets = ["s"]\n'
        '[container.b]\nimge = "i"\nnetworks = { no = {}, default = { alias = 1 } }\n'
    )
    places = [line.split(": ")[0].removeprefix("a.toml:") for line in read({"a.toml": text})[1]]
    assert places == [
        *("1:11", "2:1", "4:9", "5:10", "6:13", "7:12", "7:21", "8:16", "8:35", "9:12"),
        *("10:1", "11:1", "12:14", "12:35"),
    ]


def test_what_stands_for_a_wrong_field_is_never_wrong_itself() -> None:
    lines = (
        'volumes = ["x", "y", { type = "bind" }, { type = 3, target = "/t" }]\nnetwork_mode = "x"\n'
        'memory = "x"'
    )
    found = problems(
        lines + '\nmemory_swap = "1g"\nuts = "x"\nhostname = "h"\nrestart = "x"\n[volume.v]\nq = 1'
    )
    assert [line.split(": ")[0] for line in found] == [
        *("c.toml:4:12", "c.toml:4:17", "c.toml:4:22", "c.toml:4:50"),
        *("c.toml:5:16", "c.toml:6:10", "c.toml:8:7", "c.toml:10:11", "c.toml:12:1"),
    ]


def test_a_mistake_that_aliases_repeat_is_one() -> None:
    text = (
        "x-base: &base {image: i, memory: lots}\n"
        "container:\n  a: {<<: *base}\n  b: {<<: *base}\n  c: {<<: *base, memory: 64m}\n"
    )
    (found,) = read({"a.yaml": text})[1]
    assert found.startswith("a.yaml:1:34: container.a.memory: cannot read size 'lots'")


def test_what_lies_in_a_broken_file_is_not_missed_elsewhere() -> None:
    files = {"p/a.toml": '[network.n]\nx = 1\n[volume.v]\ny = 1\n[container.b]\nimage = "I"\n'}
    files["p/z.toml"] = A + 'networks = ["n"]\nvolumes = ["v:/v"]\ndepends_on = ["b"]\n'
    assert {line.split(":")[0] for line in read(files)[1]} == {"p/a.toml"}


def test_problems_are_sorted_by_file_line_and_column() -> None:
    files = {"b.toml": "x = 1\ny = 1\n", "a/c.yaml": "z: 1\n", "a.toml": "q = ["}
    assert [line.split(": ")[0] for line in read(files)[1]] == [
        "a.toml:1:6",
        "a/c.yaml:1:1",
        "b.toml:1:1",
        "b.toml:2:1",
    ]


def test_a_file_with_very_many_problems_says_how_many() -> None:
    found = read({"a.toml": "".join(f"x{n} = 1\n" for n in range(1500))})[1]
    assert found[0] == "a.toml:1:1: the file: 1500 problems, here are 1000"
    assert len(found) == 1001


def test_a_problem_in_one_file_keeps_all_of_the_source_from_being_taken() -> None:
    desired, found = read({"good.toml": A, "bad.toml": "x = 1\n"})
    assert desired is None
    assert len(found) == 1


def test_a_problem_is_one_line_whatever_is_in_the_file() -> None:
    (found,) = read({"a.yaml": '"a\\nb\\e[2J": 1\n'})[1]
    assert found == (
        "a.yaml:1:1: the file: unknown key 'a\\nb\\x1b[2J' (known are project, image, container, network,"
        " volume, secret, config; a file that is no spec is excluded in .steadignore)"
    )
