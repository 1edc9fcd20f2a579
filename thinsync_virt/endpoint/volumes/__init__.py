"""Single volumes and points as streams, for ``send`` and ``receive``: no replica, nothing registered."""
