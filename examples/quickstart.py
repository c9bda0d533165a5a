"""From a folder of photos to a trained model and its pictures, in Python.

    python examples/quickstart.py my_photos

`my_photos` holds a folder for each class (my_photos/daisy/1.jpg, my_photos/tulip/7.jpg, ...). A
second argument names another preset or YAML file. Everything is written below the current folder:
datasets/quickstart, results/quickstart, picture.png and path.gif.
"""

import sys
from pathlib import Path

import stacked_ram as ram

if len(sys.argv) < 2:
    sys.exit(__doc__)
photos = Path(sys.argv[1])
preset = sys.argv[2] if len(sys.argv) > 2 else "flowers17_lite0"

# Check the photos, and split them into training, validation and test photos.
print(ram.prepare(photos, "datasets/quickstart", overwrite=True))

# Train; the best epoch by validation accuracy is kept.
run = ram.train(preset, dataset="datasets/quickstart", epochs=5, overwrite=True)
print(run.metrics[["train_accuracy", "valid_accuracy"]])

# Measure on the test photos, beside the same model made to look elsewhere.
model = run.load()
report = model.evaluate(controls=True)
print(report.to_pandas())

# Look at one photo: what is it, and where did the model look?
photo = next(path for path in sorted(photos.rglob("*")) if path.is_file())
result = model.look(photo)
print(f"{result.photo}: {result.label} ({result.probability:.0%})")
for step, ((x, y), belief) in enumerate(zip(result.locations, result.beliefs, strict=True), 1):
    print(f"  glimpse {step} at ({x:+.2f}, {y:+.2f}): {model.classes[belief.argmax()]}")
print(result.save("picture.png"), result.animate("path.gif"))

# Predict any number of photos; one that cannot be read says why.
for result in model.predict(photos, stop_at=0.9):
    print(result.photo, result.error or f"{result.label} after {result.glimpses} glimpses")
