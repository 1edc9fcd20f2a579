"""The TPM's state gets a directory that carries the point; what this host must have for it."""

from __future__ import annotations

import os
import shlex

from lxml import etree

from thinsync_virt.hypervisor.markup import Element, remove, value_at
from thinsync_virt.hypervisor.replica.draft import Draft, TpmState
from thinsync_virt.hypervisor.tpm import (
    NAMED_SINCE,
    TOOLS,
    emulator_of,
    fixed_path,
    point_path,
    state_name,
    tpm_problem,
)
from thinsync_virt.model.definition import MAX_TPM, TPM

_INSTALL = "install it here: apt install swtpm swtpm-tools"


def map_tpm(draft: Draft) -> None:
    """The replica starts with the keys of its point, or is refused before the freeze."""
    backend = emulator_of(draft.root)
    if backend is None or tpm_problem(draft.root) is not None:  # said with all else that does not travel
        return
    _check_host(draft, backend)
    for source in backend.findall("source"):
        remove(source)
    path, place = point_path(draft.root, draft.mark), fixed_path(draft.root)
    if draft.facts.libvirt_version >= NAMED_SINCE:
        source = etree.SubElement(backend, "source")
        source.set("type", "dir")
        source.set("path", os.path.dirname(path))
        place = ""
    state = draft.definition.parts.get(TPM + state_name(backend))
    if state is None:
        draft.info("TPM", "it has no state yet: the first start makes a new one")
        if place:  # an older point's may be there
            draft.tpm = TpmState(path, place, b"")
    elif not 0 < len(state) <= MAX_TPM:
        draft.refuse(
            "TPM",
            f"its state has {len(state)} bytes, which no TPM's has",
            f"look at it at the source: ls -l {place or path}",
        )
    else:
        draft.tpm = TpmState(path, place, state)


def _check_host(draft: Draft, backend: Element) -> None:
    support, facts = draft.facts.support, draft.facts
    missing = [tool for tool in TOOLS if not facts.has(tool)]
    if missing or (support.tpm_backends and "emulator" not in support.tpm_backends):
        what = f" ({', '.join(missing)} missing)" if missing else ""
        draft.refuse("TPM", f"this host has no TPM emulator{what}", _INSTALL)
    model = value_at(draft.root, "devices/tpm", "model")
    if model and support.tpm_models and model not in support.tpm_models:
        draft.refuse(
            "TPM",
            f"model {model} is not known to this host's QEMU",
            f"give the guest another: virsh edit {shlex.quote(draft.name)} at the source",
        )
    encryption = backend.find("encryption")
    secret = "" if encryption is None else encryption.get("secret", "").lower()
    if secret and secret not in facts.secrets:
        draft.refuse(
            "TPM",
            f"its state is encrypted with secret {secret}, which is not on this host",
            "define it here with the same UUID and value: virsh secret-define, virsh secret-set-value",
        )
