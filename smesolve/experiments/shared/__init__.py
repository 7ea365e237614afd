"""What all experiments share: the base class, cells and their store, settings, data, figures, report."""
