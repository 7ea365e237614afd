"""Where the equation is accurate, where it fails, what can be rescaled."""

DEFAULT = "map"
"""The default study."""
