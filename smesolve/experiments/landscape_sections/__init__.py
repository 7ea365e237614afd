"""The sections of the experiment "landscape": one file per section, from its settings to its figure and its report."""
