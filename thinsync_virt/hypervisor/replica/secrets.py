"""libvirt secrets that must exist here, and security labels, which are not carried over."""

from __future__ import annotations

from collections.abc import Iterator

from thinsync_virt.hypervisor.markup import remove
from thinsync_virt.hypervisor.replica.draft import Draft


def report_secrets(draft: Draft) -> None:
    """A secret's value never travels: only its UUID stands in the definition."""
    for secret in draft.root.iter("secret"):
        uuid, usage = secret.get("uuid", "").lower(), secret.get("usage", "")
        name = uuid or usage
        if name and name not in set(_known(draft, uuid, usage)):
            draft.warn(
                f"secret {name}",
                "is not on this host: the replica cannot start without it",
                "define it here with the same UUID: virsh secret-define, virsh secret-set-value",
            )


def _known(draft: Draft, uuid: str, usage: str) -> Iterator[str]:
    if uuid in draft.facts.secrets:
        yield uuid
    if any(known.partition(":")[2] == usage for known in draft.facts.secrets if ":" in known):
        yield usage


def strip_labels(draft: Draft) -> None:
    """This host's security drivers label the guest and its volumes as they do all others.

    A static label could run the guest as root here, "none" without confinement: that is for this host to decide.
    """
    chosen = False
    for element in list(draft.root.iter("seclabel")):
        chosen |= element.get("type") in ("static", "none") or element.get("relabel") == "no"
        remove(element)
    if chosen:
        draft.warn("seclabel", "security labels chosen by hand are left out: this host's defaults apply")
