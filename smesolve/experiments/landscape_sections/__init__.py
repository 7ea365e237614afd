"""The sections of the experiment "landscape": one file for each, from its settings to its figure and its words."""
