"""A store at another host: asked for over the channel, as the driver and the verifier ask."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.targets.sites import Replica, StoreSite, make_site
from tests.contract.targets.test_stores import Outgoing
from tests.contract.targets.test_targets import ONE, TWO
from tests.unit.remote.conversation import MemoryTarget
from tests.unit.remote.loopback import OURS, Loopback, server_thread
from tests.unit.values import DOMAIN, NAME, identifier
from thinsync_virt.endpoint.target.stores.directory import StoreDirectory
from thinsync_virt.endpoint.target.stores.proof import StoreProver
from thinsync_virt.endpoint.target.stores.store import StoreEnd
from thinsync_virt.errors import ConflictError, StreamError
from thinsync_virt.model.points import ReplicaKey
from thinsync_virt.model.targets import StoreTarget, TargetKind
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.server import Handler
from thinsync_virt.remote.target_client import RemoteTarget
from thinsync_virt.remote.target_server import openable, target_handlers


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoreSite:
    made: StoreSite = make_site("archive", tmp_path, monkeypatch)
    return made


def served(site: StoreSite, stack: ExitStack) -> dict[str, Handler]:
    """The table of a host with pools of its own, and that store; its lock is held until ``stack`` is closed."""

    def opened(spec: StoreTarget) -> dict[str, Handler]:
        store = StoreDirectory(spec)
        end = StoreEnd(store, site.keeper, "beta", site.path.with_name("locks"))
        prover = StoreProver(store, site.keeper)
        stack.callback(end.end)
        stack.callback(prover.close)
        return target_handlers(end, prover)

    host = MemoryTarget()
    return openable(target_handlers(host, host), opened)


def test_a_replication_and_a_proof(site: StoreSite) -> None:
    spec = StoreTarget(TargetKind.ARCHIVE, str(site.path))
    near, far = socket.socketpair()
    with (
        ExitStack() as stack,
        server_thread(far, served(site, stack)),
        Client(Loopback(near), OURS, timeout=20) as client,
    ):
        target = RemoteTarget(client, f"beta:{spec}", None, spec)
        assert (target.host, target.address) == (f"{client.name}:{spec}", f"beta:{spec}")
        target.begin(DOMAIN)
        offer = target.offer()
        assert offer.pools == () and target.states(DOMAIN, NAME) == ()
        site._key = ReplicaKey(DOMAIN, offer.store)
        replica = Replica(site)
        for number, contents in ((1, {"vda": ONE}), (2, {"vda": TWO})):
            target.tidy(site.key, "")
            sent = replica.sent(number, contents)
            point = target.receive(Outgoing(sent.data, sent.expected), lambda _: None, lambda _: None)
            assert point.id == identifier(number)
            replica.history[number] = contents
            assert target.register(site.key, point.id).start
            target.retire(site.key, point.id)
        assert [one.sequence for one in target.points(DOMAIN)] == [1, 2]
        assert target.definition(site.key, point.id) == point.definition
        assert set(target.mapped(site.key, point.id, "vda")) != {0}
        assert len(target.digests(site.key, point.id, "vda", (0, 1), 4096)) == 64
        again = replica.sent(2, {"vda": TWO}, base=1)
        with pytest.raises(ConflictError, match="here already"):
            target.receive(Outgoing(again.data, again.expected), lambda _: None, lambda _: None)
    replica.check()


def test_what_is_no_store_ends_the_connection(site: StoreSite) -> None:
    site.path.mkdir()
    (site.path / "letters.odt").write_text("dear")
    near, far = socket.socketpair()
    with (
        ExitStack() as stack,
        server_thread(far, served(site, stack)),
        Client(Loopback(near), OURS, timeout=20) as client,
    ):
        with pytest.raises(ConflictError, match="not empty"):
            RemoteTarget(client, "beta", None, StoreTarget(TargetKind.ARCHIVE, str(site.path)))
        assert client.lost
    assert sorted(path.name for path in site.path.iterdir()) == ["letters.odt"]


def test_a_store_is_asked_for_first(site: StoreSite) -> None:
    near, far = socket.socketpair()
    with (
        ExitStack() as stack,
        server_thread(far, served(site, stack)),
        Client(Loopback(near), OURS, timeout=20) as client,
    ):
        target = RemoteTarget(client)
        assert target.offer().pools
        with pytest.raises(StreamError, match="first of all"):
            client.call("open", {"kind": "archive", "path": str(site.path)})
        assert target.offer().pools
    assert not site.path.exists()
