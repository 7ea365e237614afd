"""The experiments of Zhang and Xu on dropout, with the numbers of their figures beside ours."""

DEFAULT = "orientations"
"""The study that runs where none is named."""
