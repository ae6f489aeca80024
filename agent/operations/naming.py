"""Effects: what names on the command line mean, as the records are at this moment."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from runtime.faults import Fault
from runtime.local import LocalRuntime
from runtime.net.records import NetworkRecord, read_networks
from runtime.records import ContainerRecord, read_container, read_containers
from runtime.wishes import joined, owner_of_network

_HOW = """
agile amber azure brave brisk bright calm candid civil clear clever cosmic crisp curious daring deft
dapper eager early earnest elated fair fleet fond frank gentle glad golden grand happy hardy hearty
honest humble ideal jolly keen kind lively lucid lucky mellow merry mighty modest neat nimble noble
patient placid plucky polite proud quick quiet rapid ready robust serene sharp silver smart snappy
solid spry steady stoic sunny swift tidy tranquil upbeat valiant vivid warm wise witty zesty
""".split()
_WHO = """
abel ampere archimedes banach bell bohr boole boyle carson cauchy cerf coulomb curie dirac doppler
edison euclid euler faraday fermat fermi fourier franklin galileo galois gauss germain goodall
hamilton hertz hilbert hopper hubble huygens jacobi joule kelvin kepler knuth lagrange lamarr
laplace leavitt leibniz linnaeus lovelace maxwell meitner mendel morse napier newton noether nobel
ohm pascal pasteur planck poincare ptolemy ramanujan riemann rontgen sagan shannon tesla thompson
torvalds turing volta watt wiles wozniak yalow
""".split()


def invent(runtime: LocalRuntime) -> str:
    """A name that no container has, as docker makes them: how and who."""
    for attempt in range(100):
        name = f"{secrets.choice(_HOW)}_{secrets.choice(_WHO)}" + (str(attempt // 10) if attempt > 9 else "")
        if read_container(runtime.database.read(), name) is None:
            return name
    return f"container_{secrets.token_hex(6)}"


def container(runtime: LocalRuntime, text: str, operation: str) -> ContainerRecord:
    """By full name, by its last part where that fits one, by id or the beginning of one.

    Fault container-not-found, also when several fit, naming them.
    """
    connection = runtime.database.read()
    if (exact := read_container(connection, text)) is not None:
        return exact
    records = read_containers(connection)
    fits = [one for one in records if one.name.rpartition("/")[2] == text]
    fits = fits or [one for one in records if text and one.id.startswith(text)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        cause = f"{len(fits)} containers fit: {', '.join(one.name for one in fits[:5])}"
        raise Fault("container-not-found", operation, text, cause, "write the full name")
    cause = "there is no container of this name"
    raise Fault("container-not-found", operation, text, cause, "see `stead ps -a`")


def surely(record: ContainerRecord) -> str:
    """What an action on it is told: its id, since somebody may rename it, and give its name to another one,
    before the action begins. What a source declares keeps its name, which whatever replaces it has, too."""
    return record.name if record.source else record.id


def meant(runtime: LocalRuntime, texts: Sequence[str]) -> list[str]:
    """`texts`, with its replicas in the place of each name of a service, or last part of one, that no
    container has. One that fits those of several projects stays as it is."""
    records = read_containers(runtime.database.read())
    known = {name for one in records for name in (one.id, one.name, one.name.rpartition("/")[2])}
    if known.issuperset(texts):
        return list(texts)
    services: dict[str, list[str]] = {}
    for record in records:
        services.setdefault(record.decode().service, []).append(record.name)
    found: list[str] = []
    for text in texts:
        fits = [] if text in known else [name for name in services if text in (name, name.rpartition("/")[2])]
        found += services[fits[0]] if len(fits) == 1 else [text]
    return found


def free(runtime: LocalRuntime, names: Sequence[str]) -> list[str]:
    """Those of `names` that have no namespace of another container."""

    def is_free(name: str) -> bool:
        try:
            request = container(runtime, name, "find container").decode()
        except Fault:
            return True
        return not owner_of_network(request.network_mode) and not joined(request)

    return list(dict.fromkeys(name for name in names if is_free(name)))


def network(runtime: LocalRuntime, text: str, operation: str) -> str:
    """Its full name; likewise. Fault network-not-found."""
    known = read_networks(runtime.database.read())
    if text in known:
        return text
    fits = [name for name in known if name.rpartition("/")[2] == text]
    if not fits and len(text) >= 3:
        fits = [name for name, record in known.items() if _id(record).startswith(text)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        cause = f"{len(fits)} networks fit: {', '.join(fits[:5])}"
        raise Fault("network-not-found", operation, text, cause, "write the full name")
    cause = "there is no network of this name"
    raise Fault("network-not-found", operation, text, cause, "make it with `stead network create`")


def _id(record: NetworkRecord) -> str:
    """As `stead network ls` shows it."""
    return hashlib.sha256(f"{record.bridge} {record.name} {record.created}".encode()).hexdigest()
