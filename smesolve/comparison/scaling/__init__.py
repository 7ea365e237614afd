"""Studies of learning-rate scaling: where the modified equation holds, where it breaks, and what may be rescaled."""
