"""Decisions: where a container's output goes, and how much of it is kept.

`wrong(path, text)` is told of contradictions; the path begins at the container's table.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from specs.desired import Logger, LogLimits
from specs.policies import Logging, LogOptions
from specs.shapes import NOT_YET

Wrong = Callable[..., None]

#: What a tag may say of its container, in Docker's template words.
TAG_WORDS = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName")
#: RFC 5424, section 6.2.1, in the order of their numbers.
FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
_SYSLOG = ("syslog_address", "syslog_facility", "syslog_format")
_BUFFER = 1024 * 1024


def limits(logging: Logging | None, wrong: Wrong) -> LogLimits:
    """Of our own files, which are also the queue of what goes on to journald and syslog."""
    options = logging.options if logging else None
    default = LogLimits()
    if options is None:
        return default
    if options.max_size is not None and options.max_size < 4096:
        wrong(("logging", "options", "max-size"), "a log file is 4KiB or larger")
    return LogLimits(options.max_size or default.max_size, options.max_file or default.max_files)


def logger(logging: Logging | None, wrong: Wrong) -> Logger:
    options = (logging.options if logging else None) or LogOptions()
    driver = (logging.driver if logging else None) or "local"
    driver = "local" if driver == "json-file" else driver
    _check(driver, options, wrong)
    blocking = options.mode != "non-blocking" or driver in ("local", "none")
    return Logger(
        driver=driver,
        tag=options.tag or "",
        mode="" if blocking else "non-blocking",
        max_buffer_size=0 if blocking else options.max_buffer_size or _BUFFER,
        address=_address(options.syslog_address or "", wrong) if driver == "syslog" else "",
        facility=_facility(options.syslog_facility, wrong),
        format=options.syslog_format or "",
    )


def _check(driver: str, options: LogOptions, wrong: Wrong) -> None:
    for key in _SYSLOG:
        if getattr(options, key) is not None and driver != "syslog":
            wrong(_path(key), f"the driver is {driver}, not syslog", at_key=True)
    if options.tag is not None and driver in ("local", "none"):
        wrong(_path("tag"), f"output of the driver {driver} has no tag", at_key=True)
    if not (options.tag or "").isprintable():
        wrong(_path("tag"), "a tag is one line without control characters")
    unknown = [word for word in re.findall(r"\{\{.*?\}\}", options.tag or "") if word[3:-2] not in TAG_WORDS]
    if unknown:
        wrong(_path("tag"), f"cannot use {unknown[0]}: it may be {', '.join(map(_word, TAG_WORDS))}")
    if options.max_buffer_size is not None and options.mode != "non-blocking":
        wrong(_path("max_buffer_size"), "it has no effect without mode non-blocking", at_key=True)
    for key in ("max_size", "max_file"):
        if getattr(options, key) is not None and driver == "none":
            wrong(_path(key), "the driver none keeps nothing", at_key=True)


def _word(name: str) -> str:
    return "{{." + name + "}}"


def _path(key: str) -> tuple[str, ...]:
    return "logging", "options", key.replace("_", "-")


def _facility(text: str | None, wrong: Wrong) -> int:
    """Its number; daemon is the default, as Docker has it."""
    if text is None:
        return FACILITIES.index("daemon")
    if text.isdigit() and int(text) < len(FACILITIES):
        return int(text)
    if text in FACILITIES:
        return FACILITIES.index(text)
    known = ", ".join(filter(None, FACILITIES))
    wrong(_path("syslog_facility"), f"cannot use {text!r}: it is a number up to 23, or one of {known}")
    return 0


def _address(text: str, wrong: Wrong) -> str:
    """ "unix:///dev/log", "udp://host:514", "tcp://[::1]:601"; empty: the host's /dev/log."""
    if not text:
        return "unix:///dev/log"
    scheme, _, rest = text.partition("://")
    if scheme == "tcp+tls":
        wrong(_path("syslog_address"), f"tcp+tls: {NOT_YET}")
    elif scheme in ("unix", "unixgram") and rest.startswith("/"):
        return f"unix://{rest}"
    elif scheme in ("udp", "tcp"):
        found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?", rest)
        if found is not None and 0 < int(found[2] or 514) < 65536:
            return f"{scheme}://{found[1]}:{found[2] or 514}"
        wrong(_path("syslog_address"), f"cannot read {text!r}: write {scheme}://HOST:PORT")
    else:
        hint = "write unix:///dev/log, udp://HOST:PORT or tcp://HOST:PORT"
        wrong(_path("syslog_address"), f"cannot read {text!r}: {hint}")
    return ""
