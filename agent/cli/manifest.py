"""Values: `stead manifest`: the commands about indexes (manifest lists), a module each in
agent/cli/manifests.
"""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "inspect": (
        "manifests.inspect",
        "show the manifest or index that a registry has under a name",
        "stead manifest inspect -v alpine:3",
    ),
    "create": (
        "manifests.create",
        "put an index together of images for several platforms",
        "stead manifest create r.example/web:1 r.example/web:1-amd64 r.example/web:1-arm64",
    ),
    "annotate": (
        "manifests.annotate",
        "say what an image of an index is for",
        "stead manifest annotate r.example/web:1 r.example/web:1-arm --arch arm --variant v7",
    ),
    "push": (
        "manifests.push",
        "bring an index to its registry",
        "stead manifest push --purge registry.example/web:1",
    ),
    "rm": (
        "manifests.rm",
        "forget indexes that were put together",
        "stead manifest rm registry.example/web:1",
    ),
}
