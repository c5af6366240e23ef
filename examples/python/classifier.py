"""Trains a classifier with PyTorch, gate by gate.

PYTHONPATH=python tinygate run examples/python/classifier.toml --dir runs/classifier
"""

import tinygate
import torch
from torch import nn

CLASSES, FEATURES = 10, 20
CENTERS = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))


def examples(seed, count):
    """Noisy points around the center of each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return CENTERS[labels] + 2 * torch.randn(count, FEATURES, generator=generator), labels


HELD_OUT = examples(2**40, 1000)


def constant(stage):
    """The best cross-entropy of a model that ignores its input."""
    shares = torch.bincount(HELD_OUT[1], minlength=CLASSES) / len(HELD_OUT[1])
    return {"constant/cross_entropy": -(shares * shares.log()).sum()}


with tinygate.connect() as run:
    run.on_measure("constant", constant)
    for chunk in run.chunks():
        torch.manual_seed(0)
        dropout = nn.Dropout(chunk.settings["dropout"])
        model = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), dropout, nn.Linear(64, CLASSES))
        optimizer = torch.optim.AdamW(model.parameters())
        state = chunk.load(lambda folder: torch.load(folder / "state.pt", weights_only=True))
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        # A gate may have changed the rate, and the optimizer's state contains the old one.
        for group in optimizer.param_groups:
            group["lr"] = chunk.settings["learning_rate"]

        def save(folder):
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "state.pt")

        for update in chunk.updates(save):
            torch.manual_seed(update)  # a resumed run sees the same data and dropout
            inputs, labels = examples(update, chunk.settings["batch_size_per_gpu"])
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            chunk.log({"cross_entropy": loss})
        if not chunk.stopped:
            scores = model.eval()(HELD_OUT[0]).detach()
            chunk.log({"accuracy": (scores.argmax(1) == HELD_OUT[1]).float().mean()})
            chunk.score({"held_out/cross_entropy": nn.functional.cross_entropy(scores, HELD_OUT[1])})
