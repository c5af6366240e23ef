"""Trains a Lightning module on one device, gate by gate, with a callback.

PYTHONPATH=python tinygate run examples/python/lightning_callback.toml --dir runs/lightning
"""

import lightning.pytorch as pl
import tinygate
import torch
from torch.utils.data import DataLoader, TensorDataset


class Gate(pl.Callback):
    """Trains one chunk: reports updates, saves checkpoints, obeys a request to stop."""

    def __init__(self, chunk):
        self.chunk = chunk

    def on_train_start(self, trainer, module):
        # A gate may have changed the rate, and Lightning has restored the old one.
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.chunk.settings["learning_rate"]
        self.updates = self.chunk.updates(lambda folder: trainer.save_checkpoint(folder / "last.ckpt"))
        self.update = next(self.updates, None)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.update:  # else the batch was only accumulated
            self.chunk.log({"loss": outputs["loss"]})
            self.update = next(self.updates, None)
            trainer.should_stop = self.update is None


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.mse_loss(self.line(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


inputs = torch.linspace(-1, 1, 64).unsqueeze(1)
loader = DataLoader(TensorDataset(inputs, 3 * inputs - 1), batch_size=32)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}

with tinygate.connect() as run:
    for chunk in run.chunks():
        checkpoint = chunk.load(lambda folder: folder / "last.ckpt")
        torch.manual_seed(0)
        module, gate = Line(), Gate(chunk)
        trainer = pl.Trainer(max_steps=chunk.last, min_epochs=0, max_epochs=-1, callbacks=[gate], accelerator="cpu", **quiet)
        trainer.fit(module, loader, ckpt_path=checkpoint)
        if not chunk.stopped:
            chunk.score({"held_out_loss": module.training_step((inputs, 3 * inputs - 1), 0).detach()})
