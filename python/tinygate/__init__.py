"""Train under tinygate's gates from any Python program.

tinygate starts the program and tells it, chunk by chunk, what to train. After every chunk a gate decides how training
continues. A few lines make a training loop gated::

    import tinygate, torch

    with tinygate.connect() as run:
        for chunk in run.chunks():
            model, optimizer = build(chunk.settings)
            if chunk.resume:
                chunk.load(lambda folder: restore(model, optimizer, torch.load(folder / "state.pt")))

            def save(folder):
                torch.save(state_of(model, optimizer), folder / "state.pt")

            for update in chunk.updates(save):
                loss = train_step(model, optimizer, chunk.settings["learning_rate"])
                chunk.log({"loss": loss})
            if not chunk.stopped:
                chunk.score({"held_out_loss": evaluate(model)})

The package needs only the standard library. It uses ``torch.distributed`` if the program runs on several ranks.
"""

from __future__ import annotations

from ._checkpoint import Checkpoint
from ._chunk import Chunk
from ._connection import ConnectionLost, NotStarted, ProtocolError
from ._run import Run, Stage, connect, started

__all__ = [
    "Checkpoint",
    "Chunk",
    "ConnectionLost",
    "NotStarted",
    "ProtocolError",
    "Run",
    "Stage",
    "connect",
    "started",
]
