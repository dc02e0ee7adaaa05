"""The method that this plugin adds."""


class Mirror:
    """Points mirrored at the origin."""
