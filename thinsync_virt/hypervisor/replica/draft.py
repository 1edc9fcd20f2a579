"""The replica's definition in the making, and what is found on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from thinsync_virt.hypervisor.definition import BootFile
from thinsync_virt.hypervisor.facts import HostFacts
from thinsync_virt.hypervisor.markup import Element
from thinsync_virt.model.definition import Definition
from thinsync_virt.model.findings import Finding, Severity
from thinsync_virt.model.names import check_disk_target
from thinsync_virt.model.replicas import Choices, Mark


@dataclass(frozen=True, slots=True)
class TpmState:
    """A TPM's state and its file ``path``, which is its point's alone.

    ``place`` is where libvirt looks for it when the definition cannot name the directory, else "". With no ``data``
    the point's TPM has no state: there must be none at ``place``, and an empty file at ``path`` says so.
    """

    path: str
    place: str
    data: bytes = field(repr=False)


@dataclass
class Draft:
    """Changed step by step by the functions of this package, each of which knows one part of a domain."""

    root: Element
    definition: Definition
    boot_files: tuple[BootFile, ...]
    choices: Choices
    mark: Mark
    disk_paths: Mapping[str, str]
    facts: HostFacts
    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    tpm: TpmState | None = None
    findings: list[Finding] = field(default_factory=list)

    def info(self, subject: str, message: str, hint: str = "") -> None:
        """Something worth knowing that changes nothing."""
        self.findings.append(Finding(Severity.INFO, subject, message, hint))

    def warn(self, subject: str, message: str, hint: str = "") -> None:
        """The replica differs from the original, or needs something before it can start."""
        self.findings.append(Finding(Severity.WARNING, subject, message, hint))

    def refuse(self, subject: str, message: str, hint: str) -> None:
        """The replica could not start here, or not as the same machine: ``hint`` is the way out."""
        self.findings.append(Finding(Severity.REFUSAL, subject, message, hint))

    def has_equal(self, path: str) -> bool:
        """Whether the file has the content here that it had at the source."""
        here = self.facts.files.get(path)
        there = {file.sha256 for file in self.boot_files if file.path == path}
        return here is not None and here.sha256 != "" and here.sha256 in there

    def devices(self, tag: str) -> list[Element]:
        """The devices of one kind."""
        return self.root.findall(f"devices/{tag}")


def checked_target(element: Element) -> str:
    """The target of a disk element. Raises UsageError for a name that libvirt would not give."""
    target = element.find("target")
    return check_disk_target("" if target is None else target.get("dev", ""))
