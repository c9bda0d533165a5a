"""A glimpse model in scikit-learn's cross-validation, on its handwritten digits (8 x 8 pixels).

    python examples/sklearn_digits.py

A second on one core for each epoch of a fold; other epochs: `sklearn_digits.py EPOCHS`.
"""

import sys

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score

import stacked_ram as ram

digits = load_digits()
classifier = ram.GlimpseClassifier(
    "mnist_conv",
    random_state=0,
    epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 10,
    patch_size=4,  # two patches, 4 and 8 pixels wide
    num_patches=2,
    num_glimpses=3,
    regions=(4, 4),
    shift=0,
    precision="float32",
)
scores = cross_val_score(classifier, digits.images / 16, digits.target, cv=3)
print(f"accuracy {scores.mean():.1%} over three folds: {', '.join(f'{s:.1%}' for s in scores)}")
