"""Names and digests of images after any story are those of docker: one map of references, nothing derived."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.database import Database
from runtime.faults import Fault
from runtime.images.listing import read_images
from runtime.images.store import IMAGES_SCHEMA, ImageStore
from runtime.paths import Paths
from specs.values import ImageRef

IDS = [f"sha256:{number:064x}" for number in (1, 2)]
DIGESTS = {id: f"sha256:{'d' * 63}{number}" for number, id in enumerate(IDS)}
TAGS = [f"docker.io/library/{repository}:{tag}" for repository in ("a", "b") for tag in ("1", "2")]
NAMES = [*TAGS, *(f"docker.io/library/{repo}@{digest}" for repo in ("a", "b") for digest in DIGESTS.values())]


def repository(name: str) -> str:
    return name.split("@")[0] if "@" in name else name.rpartition(":")[0]


@dataclass
class Model:
    """docker's reference store (reference/store.go): a name means one image."""

    images: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)

    def of(self, id: str) -> set[str]:
        return {name for name, image in self.names.items() if image == id}

    def pull(self, name: str, id: str) -> None:
        self.images.add(id)
        self.names[name] = id
        self.names[f"{repository(name)}@{DIGESTS[id]}"] = id

    def tag(self, id: str, name: str) -> bool:
        if id in self.images:
            self.names[name] = id
        return id in self.images

    def remove(self, text: str) -> bool:
        if text in self.names:
            id = self.names.pop(text)
            own = {name for name in self.of(id) if repository(name) == repository(text)}
            if "@" not in text and all("@" in name for name in own):
                for name in own:
                    del self.names[name]
        elif text in self.images:
            id, names = text, self.of(text)
            one = len({repository(name) for name in names}) < 2 and sum("@" not in name for name in names) < 2
            if not one:
                return False
            for name in names:
                del self.names[name]
        else:
            return False
        if not self.of(id):
            self.images.remove(id)
        return True


def insert(database: Database, id: str) -> None:
    with database.write() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO images (id, config, manifest, platform, size, created)"
            " VALUES (?, '{}', '', 'linux/amd64', 0, '')",
            (id,),
        )


steps = st.one_of(
    st.tuples(st.just("pull"), st.sampled_from(TAGS), st.sampled_from(IDS)),
    st.tuples(st.just("tag"), st.sampled_from(TAGS), st.sampled_from(IDS)),
    st.tuples(st.just("remove"), st.sampled_from(TAGS), st.just("")),
    st.tuples(st.just("remove"), st.sampled_from([*NAMES, *IDS]), st.just("")),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(steps, max_size=25))
def test_names_after_any_story_are_those_that_docker_would_have(story: list[tuple[str, str, str]]) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as base:
        paths = Paths(Path(base) / "root", Path(base) / "run")
        paths.make()
        database = Database(paths.database, (IMAGES_SCHEMA,))
        database.read().execute("PRAGMA synchronous=OFF")
        store = ImageStore(paths, database)
        for what, name, id in story:
            step(store, database, model, what, name, id)
            found = {image.id: set(image.names) for image in read_images(database.read())}
            assert found == {id: model.of(id) for id in model.images}, (what, name, id)
        store.close()
        database.close()


def step(store: ImageStore, database: Database, model: Model, what: str, name: str, id: str) -> None:
    if what == "pull":
        model.pull(name, id)
        insert(database, id)
        store.catalog.name(ImageRef.parse(name), id, DIGESTS[id])
        return
    done = model.tag(id, name) if what == "tag" else model.remove(name)
    try:
        if what == "tag":
            store.tag(id, ImageRef.parse(name))
        else:
            store.remove(name)
        assert done, (what, name, id)
    except Fault:
        assert not done, (what, name, id)
