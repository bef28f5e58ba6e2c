"""Workers that listen and connect to each other, over IPv4 and IPv6; and the training's own ring over both."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from embedall_spark.train import addresses, ring


class Stage:
    """A barrier stage of threads."""

    def __init__(self, *hosts):
        self.hosts = hosts
        self._barrier, self._messages = threading.Barrier(len(hosts)), {}

    def run(self, task):
        """Return what ``task(context)`` returns for each rank."""
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            return list(pool.map(lambda rank: task(self._context(rank)), range(len(self.hosts))))

    def _context(self, rank):
        def gather(message):
            self._messages[rank] = message
            self._barrier.wait(30)
            messages = [self._messages[peer] for peer in range(len(self.hosts))]
            self._barrier.wait(30)
            return messages

        tasks = [SimpleNamespace(address=f"{host}:{40000 + at}") for at, host in enumerate(self.hosts)]
        return SimpleNamespace(getTaskInfos=lambda: tasks, partitionId=lambda: rank, allGather=gather)


def reach(context, timeout=5.0):
    return addresses.reach(addresses.hosts(context), context.partitionId(), context.allGather, timeout)


@pytest.fixture(params=["127.0.0.1", "[::1]"])
def host(request):
    family = socket.AF_INET6 if "[" in request.param else socket.AF_INET
    try:
        socket.create_server((request.param.strip("[]"), 0), family=family).close()
    except OSError as error:
        pytest.skip(f"no {request.param} here: {error}")
    return request.param


def test_workers_that_reach_each_other(host):
    assert Stage(host, host, host).run(reach) == [addresses.Reached(host.strip("[]"), [])] * 3


def test_the_ring_over_both_protocols(host):
    def rotate(context):
        joined = ring.Ring(context, 30)
        rows, arrived = np.full(5, joined.rank, np.float32), np.empty(5, np.float32)
        joined.exchange(rows, arrived, 0)()
        assert joined.max_status(joined.rank) == 1
        return arrived[0]

    assert Stage(host, host).run(rotate) == [1, 0]


def test_a_store_that_falls_silent_is_not_waited_for_without_end(monkeypatch):
    """A first worker whose host freezes after another has connected to it, and before all are one group."""
    import torch.distributed

    real, awake = torch.distributed.ProcessGroupGloo, threading.Event()
    server = torch.distributed.TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
    front = socket.create_server(("127.0.0.1", 0))

    def forward(source, target):
        while data := source.recv(1 << 16):
            if awake.is_set():
                target.sendall(data)

    def serve():
        near, far = front.accept()[0], socket.create_connection(("127.0.0.1", server.port))
        threading.Thread(target=forward, args=(far, near), daemon=True).start()
        forward(near, far)

    class Group(real):
        def __init__(self, *arguments):
            awake.clear()
            super().__init__(*arguments)

    awake.set()
    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setattr(torch.distributed, "ProcessGroupGloo", Group)
    tasks = [SimpleNamespace(address="127.0.0.1:1")] * 2
    message = f"127.0.0.1 {front.getsockname()[1]}"
    context = SimpleNamespace(getTaskInfos=lambda: tasks, partitionId=lambda: 1, allGather=lambda _: [message, ""])
    with pytest.raises(TimeoutError, match="Timed out waiting 1 s for all workers to connect to each other"):
        ring.Ring(context, 1)


def test_a_port_that_cannot_be_reached_is_named(monkeypatch):
    connect = socket.create_connection

    def blocked(target, timeout):
        if target[1] in closed:
            raise TimeoutError("timed out")
        return connect(target, timeout)

    closed = []

    def task(context):
        def gather(message):
            messages = context.allGather(message)
            if not closed and message:
                closed.append(int(messages[1].split()[1]))
            return messages

        return addresses.reach(addresses.hosts(context), context.partitionId(), gather)

    monkeypatch.setattr(socket, "create_connection", blocked)
    here = socket.gethostname()
    found = Stage("127.0.0.1", "127.0.0.1", "127.0.0.1").run(task)
    assert [len(one.problems) for one in found] == [1, 0, 0]
    expected = f"{here} (127.0.0.1) cannot connect to port {closed[0]} of {here} (127.0.0.1): timed out"
    assert found[0].problems == [expected]


def test_a_worker_without_a_route_does_not_keep_the_others(monkeypatch):
    def local(peer):
        if peer == "10.99.0.1":
            raise OSError(101, "Network is unreachable")
        return "127.0.0.1"

    monkeypatch.setattr(addresses, "local", local)
    found = Stage("10.99.0.1", "10.99.0.2").run(reach)
    assert found[0] == addresses.Reached("127.0.0.1", [])
    assert "no address on a route to the others (10.99.0.1): [Errno 101] Network is unreachable" in found[1].problems[0]


def test_the_address_is_the_one_towards_another_host(monkeypatch):
    monkeypatch.setattr(addresses, "local", lambda peer: f"towards {peer}")
    names = ["a", "a", "b", "a"]
    assert [addresses.own(names, rank) for rank in range(4)] == ["towards b", "towards b", "towards a", "towards b"]
    assert addresses.own(["a", "a"], 0) == "towards a"
    assert [addresses._peers(names, rank) for rank in range(4)] == [[1, 2], [2], [0, 3], [0, 2]]
    assert addresses.is_loopback("127.0.1.1") and addresses.is_loopback("::1") and not addresses.is_loopback("fd00::2")
