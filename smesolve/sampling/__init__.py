"""Keyed random numbers and ensembles of paths in blocks."""
