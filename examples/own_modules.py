"""A small convolutional network and a small transformer of torch, compared with their modified equations.

`python examples/own_modules.py` writes a figure of each. Both have dropout per sample: the first drops whole channels,
the second attention weights, residuals and the hidden layer. The embedding of the transformer is frozen. `smesolve
weak-error study.yaml --network own_modules:cnn` runs the first one from a configuration, in this folder.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import smesolve as sme

TOKENS = 6


def cnn(out_features: int = 10) -> nn.Module:
    """Return a network for images of 8 x 8 pixels, in rows of 64."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 6, kernel_size=3, stride=2),
        nn.Tanh(),
        nn.Dropout2d(0.2),
        nn.Conv2d(6, 8, kernel_size=3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(8, out_features),
    )


def transformer(out_features: int = 2) -> nn.Module:
    """Return a network for sequences of 6 tokens out of 10."""
    embedding = nn.Embedding(10, 8).requires_grad_(False)
    layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, dropout=0.1, activation="gelu", batch_first=True)
    return nn.Sequential(embedding, layer, nn.Flatten(), nn.Linear(8 * TOKENS, out_features))


def digits(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 64) of scikit-learn's digits, and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.data[:samples] / 16, found.target[:samples]


def sequences(samples: int) -> tuple[Tensor, Tensor]:
    """Return random tokens (n, 6), and whether the first one comes again."""
    tokens = torch.randint(10, (samples, TOKENS), generator=torch.Generator().manual_seed(0))
    return tokens, (tokens[:, 1:] == tokens[:, :1]).any(1).long()


def main(samples: int = 32, paths: int = 32, horizon: float = 2.0) -> dict[str, Figure]:
    """Return a figure of the weak errors of each."""
    figures = {}
    for make, data, lrs in ((cnn, digits, (0.4, 0.2)), (transformer, sequences, (0.1, 0.05))):
        torch.manual_seed(0)
        x, y = data(samples)
        problem = sme.ModuleProblem(make().double(), x, y, loss="cross_entropy")
        study = sme.weak_error(
            problem, problem.initial(seed=None), lrs=lrs, horizon=horizon, orders=[1], estimator="defects",
            paths=paths,
        )  # fmt: skip
        print(f"{make.__name__}, {problem.dim} parameters in {len(problem.parameter_names)} tensors\n{study}")
        figures[make.__name__] = study.plot()
    return figures


if __name__ == "__main__":
    for name, figure in main().items():
        figure.savefig(f"{name}.png", dpi=300)
