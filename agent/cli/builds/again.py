"""Effects: a command to build that was said before: its image is named again where nothing has changed.

First at a glance, by the words as they are, before they are parsed; then by the recipe of what they say. Both
answer the same. Imports little.
"""

from __future__ import annotations

import os
import sys

from runtime.build import glance

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from agent.cli.builds.show import Shown
    from runtime.build.request import BuildResult
    from runtime.paths import Paths


def at_a_glance(root: str, run: str, words: Sequence[str]) -> int | None:
    """The exit code where the command's result is there already; None where that takes a longer look."""
    if os.geteuid():
        return None
    try:
        root = os.path.abspath(root)
        answer = glance.find(root, _command(root, run, words))
    except FileNotFoundError:  # getcwd(2): the working directory is gone
        return None
    return None if answer is None else _answered(answer)


def by_recipe(options: argparse.Namespace, paths: Paths) -> int | None:
    """The same, of the options: None where the image is to be built."""
    if options.quiet and options.progress not in ("auto", "quiet"):
        return None
    said = _said(options)
    if said is None:
        return None
    from runtime.build import recipes, watch

    notes = watch.Notes(paths.database)
    recipe = recipes.find(paths, recipes.place_of(paths, said), notes)
    if recipe is None:
        return None
    lines = [f"WARN: {text}" for text in recipe["warnings"]]
    for number, title in enumerate(recipe["titles"], 1):
        lines += [f"#{number} {title}", f"#{number} CACHED", ""]
    lines += [f"#{len(recipe['titles']) + 1} writing image {recipe['image']}"]
    lines += [f"#{len(recipe['titles']) + 1} naming to {name}" for name in recipe["names"]]
    answer = glance.Answer(
        image=recipe["image"],
        out=recipe["image"] if options.quiet else "",
        err="" if options.quiet or options.progress == "quiet" else "\n".join(lines),
        file=os.path.abspath(options.iidfile) if options.iidfile else "",
    )
    done = _answered(answer)
    if options.words:
        notes.follow([os.path.abspath(options.file)] if options.file else [])
        root = os.path.abspath(options.root)
        notes.keep(root, _command(root, options.run, options.words), _variables(options), answer)
    return done


def remember(options: argparse.Namespace, paths: Paths, result: BuildResult, shown: Shown) -> None:
    """What the command came to, for when it is said again."""
    said = _said(options)
    if result.recipe is None or said is None:
        return
    from runtime.build import recipes

    recipes.keep(recipes.place_of(paths, said), {**result.recipe, "titles": shown.titles})


def _answered(answer: glance.Answer) -> int:
    if answer.out:
        print(answer.out)
    if answer.err:
        print(answer.err, file=sys.stderr)
    if answer.file:
        with open(answer.file, "w") as file:
            file.write(answer.image)
    return 0


def _command(root: str, run: str, words: Sequence[str]) -> str:
    """All that the command is known by, before it is parsed."""
    return repr((root, os.path.abspath(run), os.getcwd(), *words))


def _variables(options: argparse.Namespace) -> list[str]:
    """The variables of the environment whose values the build sees."""
    return ["SOURCE_DATE_EPOCH", *(word for word in options.build_arg if "=" not in word)]


def _said(options: argparse.Namespace) -> dict[str, object] | None:
    """All that the command says, as JSON data; None where it says more than a recipe can hold."""
    apart = ("run_command", "words", "progress")
    words = {key: value for key, value in vars(options).items() if key not in apart}
    context = os.path.abspath(options.context)
    never = options.no_cache or options.no_cache_filter or options.pull or options.output or options.push
    more = options.check or options.metadata_file or options.file == "-" or options.progress == "rawjson"
    if never or more or not os.path.isdir(context):
        return None
    environment = {name: os.environ.get(name) for name in _variables(options)}
    here = {"directory": os.getcwd(), "near": bool(options.file) and os.path.isfile(options.file)}
    return {**words, **here, "context": context, "environment": environment}
