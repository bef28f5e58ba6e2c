"""Addresses at which the workers of a training reach each other, IPv4 or IPv6, and a probe whether they do."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyspark import BarrierTaskContext

_TIMEOUT = 10.0
_LOOPBACK = ("127.", "::1")


class Reached(NamedTuple):
    """What a worker has found out about the way to the others."""

    address: str
    problems: list[str]


def hosts(context: BarrierTaskContext) -> list[str]:
    """Return the host of each barrier task, by rank, without the brackets of an IPv6 address."""
    return [task.address.rsplit(":", 1)[0].strip("[]") for task in context.getTaskInfos()]


def own(names: Sequence[str], rank: int) -> str:
    """Return a worker's address on its route to the next worker on another host, or on this one where all are."""
    after = [*names[rank + 1 :], *names[:rank]]
    return local(next((name for name in after if name != names[rank]), after[0]))


def local(peer: str) -> str:
    """Return this host's address on the route to a peer; connecting a UDP socket sends nothing.

    Raises:
        OSError: there is no route, or no such host.
    """
    problem: OSError | None = None
    for family, kind, protocol, _, target in socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.connect(target)
                return str(probe.getsockname()[0])
            except OSError as error:
                problem = error
    raise problem or OSError(f"{peer} has no address")


def is_loopback(address: str) -> bool:
    """Return whether other hosts cannot reach an address by its nature."""
    return address.startswith(_LOOPBACK)


def reach(names: Sequence[str], rank: int, gather: Callable[[str], list[str]], timeout: float = _TIMEOUT) -> Reached:
    """Listen, and connect to the next worker and to one of each other host, over TCP on free ports as gloo does.

    Args:
        names: the workers' hosts by rank.
        rank: of this worker.
        gather: returns all workers' messages by rank; a barrier.
        timeout: seconds for a connection.
    """
    host = socket.gethostname()
    try:
        address = own(names, rank)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = socket.create_server((address, 0), family=family)
    except OSError as error:
        gather("")
        gather("")
        others = ", ".join(sorted(set(names) - {names[rank]}))
        return Reached("", [f"{host} has no address on a route to the others ({others}): {error}"])
    with closing(server):
        messages = gather(f"{address} {server.getsockname()[1]} {host}")
        ranks = _peers(names, rank)
        with ThreadPoolExecutor(min(32, len(ranks))) as pool:
            problems = pool.map(lambda peer: _problem(f"{host} ({address})", messages[peer], timeout), ranks)
        # Nobody stops listening before all have tried.
        gather("")
    return Reached(address, [problem for problem in problems if problem])


def _peers(names: Sequence[str], rank: int) -> list[int]:
    """Return the next worker, and the first one on each other host."""
    first = {name: peer for peer, name in reversed(list(enumerate(names))) if name != names[rank]}
    return sorted({(rank + 1) % len(names), *first.values()})


def _problem(here: str, message: str, timeout: float) -> str:
    """Return why a worker that has sent this message cannot be reached; empty where it can."""
    if not message:
        # It tells about itself.
        return ""
    address, port, host = message.split()
    try:
        socket.create_connection((address, int(port)), timeout).close()
    except OSError as error:
        return f"{here} cannot connect to port {port} of {host} ({address}): {error}"
    return ""
