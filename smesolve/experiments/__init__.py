"""Experiments that are run by name: one file an experiment, from its settings to its figure and its words."""
