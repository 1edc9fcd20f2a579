"""What every contract test relies on."""

from __future__ import annotations

from tests import administrators_tools, hypothesis_profile

hypothesis_profile.use()
administrators_tools.find()
