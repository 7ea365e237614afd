"""Code used by all experiments: base class, cells and their store, settings, data, figures, report."""
