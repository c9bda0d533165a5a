"""Image classifiers that look at photographs as the Recurrent Attention Model does.

Mnih et al., "Recurrent Models of Visual Attention", 2014, https://arxiv.org/abs/1406.6247

    import stacked_ram as ram

    ram.prepare("my_photos", "datasets/mine", valid_ratio=0.2)  # a folder for each class
    run = ram.train("flowers17_lite0", dataset="datasets/mine", epochs=5)
    run.metrics                                   # a pandas table, one row for each epoch

    model = ram.load("results/mine")              # a run folder or a weights file
    result = model.look("photo.jpg")              # a path, PIL image, HWC array or CHW tensor
    result.label, result.probability, result.top(5)
    result.beliefs, result.locations, result.boxes, result.patches, result.glimpses
    result.show()                                 # a notebook shows it by itself
    result.save("picture.png")
    result.animate("path.gif")

    for result in model.predict("folder/**/*.jpg", batch_size=32):
        print(result.photo, result.error or result.label)

    report = model.evaluate("datasets/mine", controls=True)
    report.accuracy
    report.to_pandas()
    report.save("results/mine")

    net = ram.create_model("flowers17_lite0", num_classes=5)  # a torch.nn.Module
    trace = net(images_BCHW)                      # uint8, or floats from 0 to 1
    ram.list_presets(), ram.list_models()

    classifier = ram.GlimpseClassifier("mnist", epochs=5)     # scikit-learn's protocol
    classifier.fit(X, y).score(X, y)

Whatever is wrong with what a user gave is a `ram.UserError`, in one line that says what to do.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from stacked_ram.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from stacked_ram.api import create_model, list_models, list_presets, load, prepare, train, tune
    from stacked_ram.config.schema import Config
    from stacked_ram.models.protocols import Attention, Core, Retina
    from stacked_ram.models.ram import RAM
    from stacked_ram.results import Explanation, Result
    from stacked_ram.runtime.errors import RunFailed, UserError
    from stacked_ram.sklearn import GlimpseClassifier
    from stacked_ram.trained import Model, Run
    from stacked_ram.training.callbacks import Callback
    from stacked_ram.training.estimators import Estimator
    from stacked_ram.training.trainer import Trainer
    from stacked_ram.viz.training_pictures import tracking_callbacks

# The module of each public name, imported when the name is first used.
_HOMES = {
    "prepare": "api",
    "train": "api",
    "tune": "api",
    "load": "api",
    "create_model": "api",
    "list_presets": "api",
    "list_models": "api",
    "Run": "trained",
    "Model": "trained",
    "Result": "results",
    "Explanation": "results",
    "GlimpseClassifier": "sklearn",
    "Config": "config.schema",
    "RAM": "models.ram",
    "Retina": "models.protocols",
    "Core": "models.protocols",
    "Attention": "models.protocols",
    "Trainer": "training.trainer",
    "Callback": "training.callbacks",
    "Estimator": "training.estimators",
    "tracking_callbacks": "viz.training_pictures",
    "UserError": "runtime.errors",
    "RunFailed": "runtime.errors",
}

__all__ = [
    "RAM",
    "Attention",
    "Callback",
    "Config",
    "Core",
    "Estimator",
    "Explanation",
    "GlimpseClassifier",
    "Model",
    "Result",
    "Retina",
    "Run",
    "RunFailed",
    "Trainer",
    "UserError",
    "create_model",
    "list_models",
    "list_presets",
    "load",
    "prepare",
    "tracking_callbacks",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
