"""Names that ``receive`` may give to volumes: looked at before anything travels, LVM would refuse them at the end."""

from __future__ import annotations

import re

from thinsync_virt.endpoint.naming import has_our_name
from thinsync_virt.errors import UsageError
from thinsync_virt.model.names import VolumeName

_MOST_LV = 100
_MOST_DM = 115
"""The kernel's 127, less what is put behind the name of a state that is kept."""
# lvm2: lib/misc/lvm-string.c, apply_lvname_restrictions.
_RESERVED = re.compile(
    "^(?:snapshot|pvmove)"
    "|_(?:cdata|cmeta|corig|cpool|cvol|imeta|iorig|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vcfg|vdata|vorigin|wcorig)"
)


def check_target(name: VolumeName) -> VolumeName:
    """The name, if a received volume may have it. Raises UsageError."""
    if has_our_name(name):
        raise UsageError(
            f"{name}: names that begin with ts- are those of recovery points and staging volumes",
            hint="choose another name",
        )
    if _RESERVED.search(name.lv):
        raise UsageError(f"{name}: LVM keeps such names to itself", hint="choose another name; see: man lvm")
    # The kernel knows a volume as VG-LV, dashes inside doubled.
    if len(name.lv) > _MOST_LV or len(str(name).replace("-", "--")) > _MOST_DM:
        raise UsageError(
            f"{name}: too long, what is kept of it later gets a longer name still",
            hint=f"at most {_MOST_LV} characters, and {_MOST_DM} with the group's name, dashes counted twice",
        )
    return name
