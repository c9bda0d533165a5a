"""The classifier with scikit-learn's protocol, as scikit-learn uses it."""

from __future__ import annotations

import pickle
import tempfile

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from tiny import SIZE, draw

from stacked_ram import GlimpseClassifier, UserError

SMALL = {
    "epochs": 6, "batch_size": 8, "workers": 0, "cache": "none", "device": "cpu",
    "pictures_every": 0, "core_size": 16, "feature_size": 16, "what_size": 16, "where_size": 8,
    "num_glimpses": 2, "first_location": "centre", "learning_rate": 0.01, "patch_size": 8,
    "step_losses": "all",
}  # fmt: skip


def shapes(count: int = 48, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = rng.integers(0, 60, (count, SIZE, SIZE)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        draw(image, label)
    if channels:
        images = np.repeat(images[..., None], channels, -1)
    return images, labels


def small(**fields) -> GlimpseClassifier:
    return GlimpseClassifier("mnist", random_state=0, **SMALL | fields)


@pytest.fixture(scope="module")
def fitted():
    X, y = shapes()
    return small().fit(X, y)


def test_it_learns_and_predicts_the_labels_it_was_given(fitted):
    X, y = shapes()
    names = np.array(["bar", "dot", "ring"])
    assert fitted.score(X, y) > 0.8
    proba = fitted.predict_proba(X)
    assert proba.shape == (48, 3)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-4)
    named = small().fit(X, names[y])
    assert list(named.classes_) == list(names) and set(named.predict(X)) <= set(names)
    np.testing.assert_allclose(named.predict_proba(X), proba, atol=1e-6)  # the same seed


def test_photos_may_be_paths_colours_floats_and_of_several_sizes(tmp_path):
    X, y = shapes(24, channels=3)
    paths = []
    for number, image in enumerate(X):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    by_pixels = small(epochs=1).fit(X, y).predict_proba(X)
    by_name = small(epochs=1).fit(paths, y).predict_proba([str(path) for path in paths])
    by_floats = small(epochs=1).fit(X / 255, y).predict_proba(X / 255)
    np.testing.assert_allclose(by_name, by_pixels, atol=1e-6)
    np.testing.assert_allclose(by_floats, by_pixels, atol=1e-6)
    mixed = [image if number % 2 else image[1:] for number, image in enumerate(X)]
    assert small(epochs=1).fit(mixed, y).predict(mixed).shape == (24,)


def test_it_works_in_cross_validation_a_pipeline_and_a_grid_search():
    X, y = shapes(24)
    assert len(cross_val_score(small(epochs=1), X, y, cv=2)) == 2
    flat = X.reshape(24, -1)
    unflatten = FunctionTransformer(lambda rows: rows.reshape(-1, SIZE, SIZE))
    pipeline = make_pipeline(unflatten, small(epochs=1))
    assert pipeline.fit(flat, y).predict(flat).shape == (24,)
    search = GridSearchCV(small(), {"epochs": [1, 2]}, cv=2).fit(X, y)
    assert search.best_params_["epochs"] in (1, 2)


def test_parameters_are_those_given():
    classifier = small()
    assert classifier.get_params() == {
        "preset": "mnist", "random_state": 0, "verbose": False, **SMALL,
    }  # fmt: skip
    same = clone(classifier)
    assert same is not classifier and same.get_params() == classifier.get_params()
    assert classifier.set_params(epochs=1, std=0.2) is classifier
    assert classifier.get_params()["std"] == 0.2 and "std" not in same.get_params()
    with pytest.raises(ValueError, match="did you mean `epochs`"):
        classifier.set_params(epoch=1)
    assert "epochs=1" in repr(classifier)


class OfTables(GlimpseClassifier):
    """Accept scikit-learn's tables of numbers: each row becomes a photo of height 1."""

    def fit(self, X, y):
        return super().fit(self.photos(X), y)

    def predict_proba(self, X):
        return super().predict_proba(self.photos(X))

    @staticmethod
    def photos(X):
        rows = np.asarray(X, np.float64)
        assert rows.ndim == 2
        return 1 / (1 + np.exp(-np.repeat(rows[:, None], 4, 1)))


@pytest.mark.parametrize("check", [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
    "check_estimators_unfitted",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_classifiers_one_label",
    "check_classifiers_classes",
    "check_classifiers_regression_target",
    "check_supervised_y_2d",
    "check_estimators_pickle",
])  # fmt: skip
def test_scikit_learns_own_checks_pass(check):
    """The checks for classifiers, but for those that need tables of numbers or forbid `**fields` in
    the constructor."""
    classifier = OfTables("mnist", random_state=0, **SMALL | {"epochs": 1, "patch_size": 2})
    getattr(estimator_checks, check)("GlimpseClassifier", classifier)


def test_a_fitted_classifier_is_pickled_and_leaves_no_files(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    X, y = shapes(24)
    classifier = small(epochs=1).fit(X, y)
    assert not list(tmp_path.iterdir())
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))


def test_misuse_is_named(fitted):
    X, y = shapes(6)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(X, y[:4])
    with pytest.raises(ValueError, match="at least two"):
        small().fit(X, y * 0)
    with pytest.raises(ValueError, match="flattened"):
        small().fit(X.reshape(6, -1), y)
    with pytest.raises(ValueError, match="random_state"):
        small(seed=3).fit(X, y)
    with pytest.raises(UserError, match="epochs"):
        small(epoch=3).fit(X, y)
    with pytest.raises(NotFittedError):
        small().predict(X)
    with pytest.raises(UserError, match=r"nowhere\.png"):
        fitted.predict(["nowhere.png"])
