"""libvirt secrets that must exist here, and security labels that must not be carried over."""

from __future__ import annotations

from collections.abc import Iterator

from thinsync_virt.hypervisor.markup import Element, remove, remove_all
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
    """Labels that libvirt made are made anew; those of a security driver that is not here would stop the start."""
    for element in list(draft.root.iter("seclabel")):
        model = element.get("model", "")
        if model and model not in draft.facts.security_models:
            remove(element)
            if _chosen_by_user(element):
                draft.warn("seclabel", f"this host has no security driver {model}: its label is left out")
        elif element.get("type") == "dynamic":
            remove_all(element, "label", "imagelabel")


def _chosen_by_user(element: Element) -> bool:
    return element.get("type") in ("static", "none") or element.get("relabel") == "no"
