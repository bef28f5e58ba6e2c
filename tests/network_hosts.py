"""Hosts of a cluster on this machine: namespaces with names, addresses, links and a local folder of their own.

There is a hub, on which a driver runs, and two hosts that reach it, but each other only after ``link()``. The local
folder has one path, where each host sees only its own files. Where namespaces cannot be made, this host stands for all
three.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NET = "10.213"
# Gives the process its host's name and folder and becomes the command.
_START = "import os, socket, subprocess, sys; name, own, local, *command = sys.argv[1:]; socket.sethostname(name); "
_START += "subprocess.run(['mount', '--bind', own, local], check=True); os.execvp(command[0], command)"


class Host(NamedTuple):
    """Where a process of the cluster runs."""

    name: str
    address: str
    prefix: list[str]
    """What to put before its command."""


class Network(NamedTuple):
    """The hosts of a cluster; ``missing`` says why they are this one host."""

    hub: Host
    one: Host
    two: Host
    folder: Path
    """What each host has on its own disk."""
    missing: str | None

    def link(self) -> None:
        """Let the two hosts reach each other, by a link and addresses that Spark does not know."""
        if self.missing is None:
            one, two = (host.prefix[3] for host in (self.one, self.two))
            _connect(one, two, 3)
            _ip("-n", one, "route", "add", f"{self.two.address}/32", "via", f"{_NET}.3.2")
            _ip("-n", two, "route", "add", f"{self.one.address}/32", "via", f"{_NET}.3.1")


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """Yield the hosts, whose files lie in a folder; their namespaces are removed at the end."""
    local = folder / "local"
    local.mkdir()
    with ExitStack() as stack:
        try:
            made = _namespaces(stack, local)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            here = Host("this one", "127.0.0.1", [])
            yield Network(here, here, here, local, f"network namespaces need root and iproute2: {reason}")
        else:
            yield made


def _namespaces(stack: ExitStack, local: Path) -> Network:
    """Return hosts in namespaces, which the stack removes."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        raise OSError("ip or unshare is not installed")
    hosts = {}
    for name, address in (("hub", "1.1"), ("one", "1.2"), ("two", "2.2")):
        space = f"embedall-{os.getpid()}-{name}"
        _ip("netns", "add", space)
        stack.callback(_ip, "netns", "del", space)
        _ip("-n", space, "link", "set", "lo", "up")
        own = local.with_name(name)
        own.mkdir()
        # A command of ip netns has mounts of its own.
        prefix = ["ip", "netns", "exec", space, "unshare", "--uts", sys.executable, "-c", _START, name]
        prefix += [str(own), str(local)]
        subprocess.run([*prefix, "true"], check=True, capture_output=True, text=True)
        hosts[name] = Host(name, f"{_NET}.{address}", prefix)
    hub, one, two = (host.prefix[3] for host in hosts.values())
    _connect(hub, one, 1)
    _connect(hub, two, 2)
    _ip("-n", two, "route", "add", f"{_NET}.1.1/32", "via", f"{_NET}.2.1")
    return Network(hosts["hub"], hosts["one"], hosts["two"], local, None)


def _connect(left: str, right: str, number: int) -> None:
    """Make a link of two namespaces, with a network of its own."""
    device = f"link{number}"
    _ip("-n", left, "link", "add", device, "type", "veth", "peer", "name", device, "netns", right)
    for space, last in ((left, 1), (right, 2)):
        _ip("-n", space, "addr", "add", f"{_NET}.{number}.{last}/24", "dev", device)
        _ip("-n", space, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
