"""From a host's name to a greeted client."""

from __future__ import annotations

from collections.abc import Sequence

from thinsync_virt.model.targets import HostTarget
from thinsync_virt.remote.client import Client
from thinsync_virt.remote.greeting import Greeting, refuse_same_machine
from thinsync_virt.system.ssh import OWN_CONNECTION, SERVER_COMMAND, open_server


def connect(
    target: HostTarget,
    ours: Greeting,
    *,
    command: Sequence[str] = SERVER_COMMAND,
    options: Sequence[str] = (),
    same_machine: bool = False,
) -> Client:
    """A client of the server at ``target``. ``options`` go to ssh.

    Raises UnreachableError that says why and what to do; also when the target is this machine, unless
    ``same_machine``.
    """
    client = Client(open_server(target, command=command, options=options), ours)
    try:
        if not same_machine:
            refuse_same_machine(ours, client.peer, client.name)
    except BaseException:
        client.close()
        raise
    return client


def connect_lane(
    target: HostTarget,
    ours: Greeting,
    *,
    command: Sequence[str] = SERVER_COMMAND,
    options: Sequence[str] = (),
) -> Client:
    """One more client at the same target, over a TCP connection of its own. Raises UnreachableError."""
    return Client(open_server(target, command=command, options=(*OWN_CONNECTION, *options)), ours)
