"""Decisions: one [image.NAME] with `build` -> how its image is made, and what the image is called.

The words are Compose's (compose-spec, build.md). Paths are relative to the spec file and stay in the source.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from specs.declared import Declared, Index
from specs.desired import BuildSecret, DesiredBuild, DesiredImage
from specs.documents import Image, Secret
from specs.policies import Build, UlimitRange
from specs.policies import BuildSecret as SecretItem
from specs.positions import Path
from specs.shapes import NOT_YET
from specs.values import LOCAL_HOST, ImageRef

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|git@|github\.com/", re.IGNORECASE)
_NETWORKS = ("default", "none", "host")


def built_image(declared: Declared, index: Index, tree: str, problems: list[Any]) -> DesiredImage | None:
    """`tree` is the directory of the source's files on this machine. None where it has problems."""
    return _Work(declared, index, tree, problems).run()


class _Work:
    def __init__(self, declared: Declared, index: Index, tree: str, problems: list[Any]) -> None:
        self.declared, self.index, self.tree, self.problems = declared, index, tree, problems
        model: Image = declared.model
        assert model.build is not None
        self.model, self.build = model, model.build

    def wrong(self, path: Path, text: str, hint: str = "", *, at_key: bool = False) -> None:
        self.problems.append(self.declared.problem(path, text, hint, at_key=at_key))

    def run(self) -> DesiredImage | None:
        before = len(self.problems)
        ref = self._name()
        if self.model.pull is not None:
            hint = "write build.pull for newer base images"
            self.wrong(("pull",), "an image that is built is never pulled", hint, at_key=True)
        platform = self._platform()
        made = self._made(self.build)
        if ref is None or len(self.problems) > before:
            return None
        return DesiredImage(ref, "never", platform, self.declared.place, build=made)

    def _name(self) -> ImageRef | None:
        """`from`, as Compose's `image` beside `build`; else localhost/PROJECT/NAME."""
        if self.model.from_ is not None:
            ref = ImageRef.parse(self.model.from_)
            if ref.digest:
                self.wrong(("from",), "what is built cannot be called by a digest", "write NAME:TAG")
                return None
            return ref
        try:
            return ImageRef.parse(f"{LOCAL_HOST}/{self.declared.project}/{self.declared.name}")
        except ValueError:
            text = f"an image cannot be called {self.declared.project}/{self.declared.name}"
            self.wrong((), text, "give it a name: from = ...")
            return None

    def _platform(self) -> str:
        platforms = self.build.platforms or ()
        if len(platforms) > 1:
            self.wrong(("build", "platforms"), f"more than one platform: {NOT_YET}", at_key=True)
        platform = self.model.platform or ""
        if platform and platforms and platforms[0] != platform:
            self.wrong(("build", "platforms"), f"`platform` says {platform}", at_key=True)
        return platform or (platforms[0] if platforms else "")

    def _made(self, build: Build) -> DesiredBuild:
        if build.dockerfile and build.dockerfile_inline:
            self.wrong(("build",), "write one of dockerfile and dockerfile_inline", at_key=True)
        network = build.network or ""
        if network not in ("", *_NETWORKS):
            hint = f"one of: {', '.join(_NETWORKS)}"
            self.wrong(("build", "network"), f"a build in network {network!r}: {NOT_YET}", hint)
        context = self._directory(("build", "context"), build.context or ".")
        dockerfile = self._dockerfile(build.dockerfile or "", context)
        inline = build.dockerfile_inline or ""
        name = posixpath.relpath(posixpath.join(context, dockerfile), self.tree) if context else ""
        return DesiredBuild(
            context=context,
            dockerfile=dockerfile,
            inline=inline,
            name=f"{self.declared.document.file} {self.declared.name}.dockerfile_inline" if inline else name,
            target=build.target or "",
            args=self._arguments(),
            labels=tuple(sorted((build.labels or {}).items())),
            contexts=self._contexts(),
            extra_hosts=build.extra_hosts or (),
            network="" if network == "default" else network,
            no_cache=bool(build.no_cache),
            pull=bool(build.pull),
            secrets=self._secrets(),
            ssh=self._ssh(),
            shm_size=build.shm_size or 0,
            ulimits=self._ulimits(),
            tags=self._tags(),
            cache_from=self._cache_from(build.cache_from or ()),
            inline_cache=self._inline_cache(build.cache_to or ()),
        )

    # ------------------------------------------------------------ paths

    def _directory(self, path: Path, written: str) -> str:
        """The absolute path of a directory of the source."""
        if _URL.match(written):
            self.wrong(
                path, f"a context from elsewhere ({written!r}): {NOT_YET}", "a directory of the source"
            )
            return ""
        below = posixpath.normpath(posixpath.join(posixpath.dirname(self.declared.document.file), written))
        if written.startswith("/") or below == ".." or below.startswith("../"):
            self.wrong(path, f"{written!r} is not in the source", "paths are relative to this file")
            return ""
        return posixpath.normpath(posixpath.join(self.tree, below))

    def _dockerfile(self, written: str, context: str) -> str:
        """Relative to the context; it may lie beside it, but not outside of the source."""
        found = posixpath.normpath(posixpath.join(context, written or "Dockerfile"))
        inside = found.startswith(self.tree.rstrip("/") + "/")
        if context and (written.startswith("/") or not inside):
            path = ("build", "dockerfile")
            self.wrong(path, f"{written!r} is not in the source", "the path is relative to the context")
        return posixpath.relpath(found, context) if context else written

    def _contexts(self) -> tuple[tuple[str, str], ...]:
        found = []
        for name, written in sorted((self.build.additional_contexts or {}).items()):
            if not written.startswith("docker-image://"):
                written = self._directory(("build", "additional_contexts", name), written)
            found.append((name, written))
        return tuple(found)

    # ------------------------------------------------------------ values

    def _arguments(self) -> tuple[tuple[str, str], ...]:
        """One without a value is taken from the variables of the source; without one there, it is not set."""
        variables = self.declared.variables
        given = {
            key: variables.get(key) if value is None else value
            for key, value in (self.build.args or {}).items()
        }
        return tuple(sorted((key, value) for key, value in given.items() if value is not None))

    def _ssh(self) -> tuple[tuple[str, str], ...]:
        """Compose takes `default` from the user's environment; the agent has no such user."""
        for id, socket in (self.build.ssh or {}).items():
            if not socket.startswith("/"):
                path, at_key = self.declared.item(("build", "ssh"), id)
                text = f"the ssh agent {id!r} needs the absolute path of its socket"
                self.wrong(path, text, f"{id}=/run/agent.sock", at_key=at_key)
        return tuple(sorted((self.build.ssh or {}).items()))

    def _ulimits(self) -> tuple[tuple[str, int, int], ...]:
        found = []
        for name, value in sorted((self.build.ulimits or {}).items()):
            soft, hard = (value.soft, value.hard) if isinstance(value, UlimitRange) else (value, value)
            found.append((name, soft, hard))
        return tuple(found)

    def _tags(self) -> tuple[ImageRef, ...]:
        found = tuple(ImageRef.parse(name) for name in self.build.tags or ())
        for number, ref in enumerate(found):
            if ref.digest:
                text = "what is built cannot be called by a digest"
                self.wrong(("build", "tags", number), text, "write NAME:TAG")
        return found

    def _cache_from(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """The images whose steps may be used, each NAME or type=registry,ref=NAME."""
        found = []
        for number, word in enumerate(words):
            path, (kind, fields) = ("build", "cache_from", number), _cache(word)
            if kind != "registry":
                self.wrong(path, _other_cache(word, kind), "write NAME or type=registry,ref=NAME")
                continue
            try:
                found.append(str(ImageRef.parse(fields.get("ref", ""))))
            except ValueError as error:
                self.wrong(path, str(error), "write NAME or type=registry,ref=NAME")
        return tuple(found)

    def _inline_cache(self, words: tuple[str, ...]) -> bool:
        for number, word in enumerate(words):
            if (kind := _cache(word)[0]) != "inline":
                path = ("build", "cache_to", number)
                self.wrong(path, _other_cache(word, kind), "write type=inline")
        return bool(words)

    def _secrets(self) -> tuple[BuildSecret, ...]:
        found = []
        for number, item in enumerate(self.build.secrets or ()):
            name = item.source if isinstance(item, SecretItem) else item
            id = (item.target if isinstance(item, SecretItem) else None) or name
            if (secret := self._secret(("build", "secrets", number), name, id)) is not None:
                found.append(secret)
        return tuple(found)

    def _secret(self, path: Path, name: str, id: str) -> BuildSecret | None:
        declared = self.index.get("secret", self.index.full_name(self.declared.project, name))
        if declared is None:
            hint = self.index.hint("secret", self.declared.project, name)
            self.wrong(path, f"no secret {name!r}", hint)
            return None
        model = declared.model
        if not isinstance(model, Secret):
            return None  # it has its own problem
        if model.file is not None:
            below = posixpath.join(posixpath.dirname(declared.document.file), model.file)
            below = posixpath.normpath(below)
            if model.file.startswith("/") or below.startswith(".."):
                self.problems.append(declared.problem(("file",), f"{model.file!r} is not in the source"))
            return BuildSecret(id, file=posixpath.join(self.tree, below))
        if model.environment is None:
            if model.external:
                self.wrong(path, f"a secret of the node in a build: {NOT_YET}", "write file or environment")
            return None  # else it has its own problem
        value = declared.variables.get(model.environment)
        if value is None:
            text = f"variable {model.environment!r} of the source is not set"
            self.problems.append(declared.problem(("environment",), text))
        return BuildSecret(id, value=value or "")


def _cache(word: str) -> tuple[str, dict[str, str]]:
    """(type, fields) of what cache_from and cache_to name. A name alone is an image in a registry."""
    if "=" not in word:
        return "registry", {"ref": word}
    fields = {
        key.strip(): value.strip() for key, _, value in (part.partition("=") for part in word.split(","))
    }
    return fields.get("type", ""), fields


def _other_cache(word: str, kind: str) -> str:
    return f"a cache of type {kind!r}: {NOT_YET}" if kind else f"{word!r} has no type"
