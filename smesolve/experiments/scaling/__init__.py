"""Where the equation holds, where it breaks, what may be rescaled."""

DEFAULT = "map"
"""The study that runs where none is named."""
