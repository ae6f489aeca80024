"""Values: why a build failed."""

from __future__ import annotations

from runtime.build.problems import DockerfileError, Place
from runtime.faults import TRANSIENT, Fault

#: Codes of faults within a step that say more of who must act than that the step failed.
_OWN = TRANSIENT | {
    "disk-full",
    "registry-denied",
    "image-not-found",
    "platform-missing",
    "address-exhausted",
}


class StepFailed(Fault):
    """A step that could not be done. `title` is the instruction, `tail` the last lines of its output,
    `exit_code` that of the program, 0 where none ran. `code` is that of a fault that was met within."""

    def __init__(
        self,
        subject: str,
        place: Place,
        title: str,
        cause: str,
        *,
        exit_code: int = 0,
        tail: tuple[str, ...] = (),
        stage: str = "",
        hint: str = "",
        code: str = "",
    ) -> None:
        super().__init__(
            code if code in _OWN else "build-failed", "build", subject, f"{place}: {title}: {cause}", hint
        )
        self.place, self.title, self.reason = place, title, cause
        self.exit_code, self.tail, self.stage = exit_code, tail, stage


def invalid(subject: str, error: DockerfileError) -> Fault:
    """The Fault for a Dockerfile with problems: all of them, one a line where there are several."""
    lines = [str(problem) for problem in error.problems]
    cause = lines[0] if len(lines) == 1 else f"{len(lines)} problems:\n" + "\n".join(lines)
    return Fault("dockerfile-invalid", "build", subject, cause)
