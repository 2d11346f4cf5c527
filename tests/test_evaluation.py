"""Frozen features and their scores, through a real embedding graph."""

import numpy as np
import pytest
from tiny_encoder import SIZE_PX, features_of, make_package, make_state

from edge_runtime.errors import DataError, DivergedError
from edge_runtime.evaluation import evaluate, extract_features, knn_accuracy, linear_accuracy
from edge_runtime.evaluation.features import label_mapping


class Pictures:
    """Small pictures in memory; each class has a colour, more or less."""

    def __init__(self, name, count, classes=("blue", "green", "red"), labelled=True, seed=0):
        rng = np.random.default_rng(seed)
        self.name = name
        self.classes = classes
        colours = [("red", "green", "blue").index(name) for name in classes]
        labels = rng.integers(0, len(classes), count)
        self.images = rng.integers(0, 200, (count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        self.images[np.arange(count), :, :, np.array(colours)[labels]] += 40
        self.labels = labels if labelled else None

    def __len__(self):
        return len(self.images)

    def key(self, index):
        return f"{index}.png"

    def read(self, index):
        return self.images[index]


class Camera:
    name = "camera:0"

    def frames(self):
        yield np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)


@pytest.fixture
def package(tmp_path):
    pytest.importorskip("onnxruntime")
    return make_package(tmp_path / "package")


def numpy_features(state, pictures):
    weights = {name[4:]: value for name, value in state.items() if name.startswith("ema.")}
    return features_of(weights, pictures.images)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_features_are_those_of_the_graph_in_the_sources_order(package, batch_size):
    state, pictures = make_state(1), Pictures("train", 7)
    values, labels = extract_features(
        package, state, pictures, threads=2, batch_size=batch_size
    )
    assert values.dtype == np.float32
    # float32 on both sides; 48 products of up to 255 added in another order
    np.testing.assert_allclose(values, numpy_features(state, pictures), rtol=1e-3, atol=1e-2)
    assert labels.tolist() == pictures.labels.tolist()


def test_weights_that_are_not_finite_are_reported(package):
    state = make_state(1)
    state["ema.fc.weight"][0, 0] = np.nan
    with pytest.raises(DivergedError, match="features that are not finite numbers for train"):
        extract_features(package, state, Pictures("train", 3), threads=1)


@pytest.mark.parametrize("source", [Pictures("some/folder", 3, labelled=False), Camera()])
def test_pictures_without_classes_are_refused(package, source):
    with pytest.raises(DataError, match=rf"{source.name} has no labels.*sub-folder"):
        extract_features(package, make_state(1), source, threads=1)
    with pytest.raises(DataError, match=rf"{source.name} has no labels"):
        evaluate(package, make_state(1), Pictures("a", 3), source, linear=False, threads=1)


def test_classes_are_matched_by_name():
    train, test = Pictures("a", 3), Pictures("b", 3, classes=("red", "blue", "green"))
    assert label_mapping(train, test).tolist() == [2, 0, 1]


def test_other_classes_are_named():
    train, test = Pictures("a", 3), Pictures("b", 3, classes=("red", "blue"))
    with pytest.raises(
        DataError, match=r"classes of a and b differ: 'green' only in a\. Give their"
    ):
        label_mapping(train, test)
    train.classes = ("blue", "green", "rot")
    with pytest.raises(DataError, match="'green' only in a, 'red' only in b, 'rot' only in a"):
        label_mapping(train, test)


def test_many_other_classes_are_abbreviated():
    train, test = Pictures("a", 3), Pictures("b", 3)
    train.classes = [f"class {number}" for number in range(1000)]
    with pytest.raises(
        DataError, match=r"'blue' only in b.*'class 100' only in a, and 998 more\."
    ):
        label_mapping(train, test)


def test_scores_are_those_of_both_encoders(package):
    state = make_state(1)
    train, test = (
        Pictures("a", 60),
        Pictures("b", 40, classes=("red", "blue", "green"), seed=1),
    )
    test_labels = np.array([2, 0, 1])[test.labels]
    scores = evaluate(package, state, train, test, linear=True, threads=2)
    assert (scores.train_pictures, scores.test_pictures, scores.classes) == (60, 40, 3)
    for measure, accuracies in [(knn_accuracy, scores.knn), (linear_accuracy, scores.linear)]:
        expected = [
            measure(
                numpy_features(weights, train),
                train.labels,
                numpy_features(weights, test),
                test_labels,
            )
            for weights in (state, package.initial_state())
        ]
        assert expected[0] != expected[1]
        assert [accuracies.accuracy, accuracies.untrained_accuracy] == expected


def test_the_linear_probe_is_fitted_only_on_request(package):
    train, test = Pictures("a", 20), Pictures("b", 10)
    scores = evaluate(package, make_state(1), train, test, linear=False, threads=1)
    assert scores.linear is None
