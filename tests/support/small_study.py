"""The smallest study of the command line: eight paths of one learning rate, one step, one observable."""

STUDY = {
    "data": {"name": "random", "samples": 4, "in_features": 2},
    "network": {"width": 2},
    "lrs": [0.2],
    "horizon": 0.2,
    "orders": [1],
    "observables": ["loss"],
    "control": "none",
    "paths": 8,
    "threads": 1,
}
