"""What every contract test relies on."""

from __future__ import annotations

from tests import hypothesis_profile

hypothesis_profile.use()
