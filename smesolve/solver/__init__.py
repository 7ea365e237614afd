"""The modified equation as an SDE, schemes, and ensembles of its paths."""
