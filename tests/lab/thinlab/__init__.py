"""Two hypervisors with real dm-thin, LVM, libvirt and QEMU on any Debian-like machine.

    lab = Lab(Path(".lab"))
    lab.up()
    lab.node("alpha").run(["lvs", "vg0"])

``lab`` holds the class; the program ``tests/lab/lab`` is a thin shell over it.
"""

from thinlab.errors import LabError
from thinlab.guestxml import Guest
from thinlab.lab import Lab
from thinlab.process import Result

__all__ = ["Guest", "Lab", "LabError", "Result"]
