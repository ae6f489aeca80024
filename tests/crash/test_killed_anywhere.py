"""kill -9 of `stead apply` and `stead down` after every kind of change to the machine: the next converges.

Each test lets a command run once and notes which changes it makes; then it is killed right after the first
and after the last of each kind, again and again, and after each death the next command must bring everything
where it was wanted, with nothing left on the machine that no record accounts for.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.crash.box import Box, share
from tests.e2e.conftest import Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]

#: what changes the machine; looking does not
CHANGES = re.compile(
    r"""runtime/(
    database.py:Database.write
    | paths.py:write_atomically
    | prepare.py:_remove_live
    | paths.py:delete_tree
    | volumes/(copying.py:_copy_entry|filling.py:fill|store.py:(_remove_if_empty|Volumes._set_filled))
    | linux/cgroups.py:Cgroups.(create|kill|remove|apply|allow_devices)
    | linux/mounts.py:(attach|bind|unmount)
    | linux/namespaces.py:(create|delete)_netns
    | net/links.py:(write_sysctl|ensure_bridge|ensure_endpoint|_make_pair)
    | net/netlink.py:Netlink.(change|try_all)
    | net/(nft.py:run|firewall.py:Firewall._remember|elements.py:change)
    | net/names.py:write_in_place
    | shim/forking.py:(Zygote.(_start|send|_end)|Birth.(ground|go|start))
    | shim/client.py:(_?stop|adjust)
    | images/points.py:Points.(_make|keep)
    | images/blobs.py:(BlobStore.(_fill|put)|Writer.write|sync_directory)
    | images/layers.py:(LayerStore.(_make|_run)|_Worker.(feed|go|hear))
    | images/pipeline.py:Pipeline.(_download|_unpack)
    | images/bring.py:Bringer.(_plan|_bring|_record)
    | images/catalog.py:Catalog.(add_layer|record|unname|delete)
    )\ return""",
    re.VERBOSE,
)


def passed(box: Box, *words: str) -> list[str]:
    """Where the call can be killed: after the first or after the last change of each kind, or both."""
    found = {place: count for place, count in box.places(*words).items() if CHANGES.fullmatch(place)}
    assert len(found) > 10, found
    return [f"{place} {nth}" for place, count in found.items() for nth in sorted({1, count})]


def changes(box: Box, *words: str) -> list[str]:
    """Where the call is to be killed."""
    return share(passed(box, *words))


def write(box: Box, port: int, *, second: bool = False) -> None:
    """The second version has another network, another container, other limits and a variable changed."""
    network = "front" if second else "back"
    (box.specs / "shop.toml").write_text(
        f"""
[network.{network}]
internal = true

[volume.data]

[container.web]
image = "busy:1"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports = ["127.0.0.1:{port}:80"]
volumes = ["data:/data"]
environment = {{ MODE = "{"two" if second else "one"}" }}
stop_grace_period = "100ms"
networks = ["default", "{network}"]

[container.steady]
image = "busy:1"
command = ["sleep", "10000"]
stop_grace_period = "100ms"
memory = "{"32" if second else "16"}MiB"

[container.{"new" if second else "old"}]
image = "busy:1"
command = ["sleep", "10000"]
stop_grace_period = "100ms"
"""
    )


def page(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        return bytes(answer.read())


def shared_out(boxes: Sequence[Box], work: Callable[[Box, int], int]) -> int:
    """Run `work` in every box at once, each with its number; the sum of what it returns."""
    with ThreadPoolExecutor() as threads:
        return sum(threads.map(work, boxes, range(len(boxes))))


@pytest.mark.parametrize("half", [0, 1])
def test_an_apply_or_down_killed_after_any_change_is_finished_by_the_next(
    boxes: list[Box], half: int
) -> None:
    ports = [Node.free_port() for _ in boxes]
    write(boxes[0], ports[0])
    ups = changes(boxes[0], "apply", str(boxes[0].specs))
    boxes[0].settled()
    downs = changes(boxes[0], "down", str(boxes[0].specs), "--volumes")
    downs += downs[: len(ups) - len(downs)]
    ups, downs = ups[half::2], downs[half::2]
    again = passed(boxes[0], "apply", str(boxes[0].specs))  # the first apply of a box does more
    boxes[0].well("down", str(boxes[0].specs), "--volumes")

    def work(box: Box, number: int) -> int:
        """How many places were not come to, though they should have been."""
        write(box, ports[number])
        missed = 0
        for up, down in list(zip(ups, downs, strict=True))[number :: len(boxes)]:
            reached = box.killed("apply", str(box.specs), place=up)
            missed += up in again and not reached
            whole = len(up) % 3 > 0  # half of an apply is also a state to be taken down
            if whole:
                box.well("apply", str(box.specs))
                box.settled()
                assert page(ports[number]) == b"well\n", up
            reached = box.killed("down", str(box.specs), "--volumes", place=down)
            missed += whole and not reached
            box.well("down", str(box.specs), "--volumes")
            assert box.inventory.strays() == [], down
        return missed

    assert shared_out(boxes, work) < 0.2 * (len(ups) + len(downs))


def test_a_replacement_killed_after_any_change_is_finished_by_the_next(boxes: list[Box]) -> None:
    ports = [Node.free_port() for _ in boxes]
    for box, port in zip(boxes, ports, strict=True):
        write(box, port)
        box.well("apply", str(box.specs))
    write(boxes[0], ports[0], second=True)
    places = changes(boxes[0], "apply", str(boxes[0].specs))[::2]  # the others were passed in the test above

    def work(box: Box, number: int) -> int:
        steady, second, reached = box.ps()["default/steady"], number == 0, 0
        for place in places[number :: len(boxes)]:
            second = not second
            write(box, ports[number], second=second)
            reached += box.killed("apply", str(box.specs), place=place)
            box.well("apply", str(box.specs))
            box.settled()
            assert page(ports[number]) == b"well\n", place
            now = box.ps()
            assert now["default/steady"] == steady, place  # its limits changed, nothing else
            assert set(now) == {"default/web", "default/steady", "default/new" if second else "default/old"}
        return reached

    assert shared_out(boxes, work) > 0.6 * len(places)


def test_half_of_a_removal_is_a_state_to_converge_from(box: Box) -> None:
    port = Node.free_port()
    write(box, port)
    box.well("apply", str(box.specs))
    places = [place for place in changes(box, "down", str(box.specs)) if place.endswith(" 1")]
    for place in places[::3]:
        box.well("apply", str(box.specs))
        box.killed("down", str(box.specs), place=place)
        box.well("apply", str(box.specs))
        box.settled()
        assert page(port) == b"well\n", place
