"""Fits a line by gradient descent, gate by gate. Needs only the standard library.

PYTHONPATH=python tinygate run examples/python/line_fit.toml --dir runs/line
"""

import json
import random

import tinygate

SLOPE, INTERCEPT, NOISE = 3.0, -1.0, 0.1


def points(seed, count):
    """Noisy points of the line."""
    generator = random.Random(seed)
    xs = [generator.uniform(-1, 1) for _ in range(count)]
    return [(x, SLOPE * x + INTERCEPT + generator.gauss(0, NOISE)) for x in xs]


def loss_and_gradient(line, batch):
    errors = [line["slope"] * x + line["intercept"] - y for x, y in batch]
    count = len(batch)
    loss = sum(error * error for error in errors) / count
    slope = sum(2 * error * x for error, (x, _) in zip(errors, batch)) / count
    return loss, {"slope": slope, "intercept": sum(2 * error for error in errors) / count}


def predict_the_mean(stage):
    """The best that a model can do that ignores x."""
    mean = sum(y for _, y in HELD_OUT) / len(HELD_OUT)
    return {"constant/loss": sum((y - mean) ** 2 for _, y in HELD_OUT) / len(HELD_OUT)}


HELD_OUT = points("held out", 200)

with tinygate.connect() as run:
    run.on_measure("mean", predict_the_mean)
    for chunk in run.chunks():
        saved = chunk.load(lambda folder: json.loads((folder / "line.json").read_text()))
        line = saved or {"slope": 0.0, "intercept": 0.0}

        def save(folder):
            (folder / "line.json").write_text(json.dumps(line))

        for update in chunk.updates(save):
            # The batch depends on the update alone, so a resumed run sees the same data.
            batch = points(update, chunk.settings["batch_size_per_gpu"])
            loss, gradient = loss_and_gradient(line, batch)
            for name in line:
                line[name] -= chunk.settings["learning_rate"] * gradient[name]
            chunk.log({"loss": loss})
        if not chunk.stopped:
            chunk.score({"held_out/loss": loss_and_gradient(line, HELD_OUT)[0]})
