"""The version of smesolve, alone in a file so that packaging reads it without importing torch."""

__version__ = "0.12.0"
