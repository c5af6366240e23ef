#!/usr/bin/env python3
"""Trains a few updates of each stage and compares the checkpoints with TinyWorlds' own names and shapes.

    trained.py --tinygate BINARY --data FRAMES.h5 --fixtures DIR --into DIR

The config (`short.toml`) has the shape of `DIR/small_*.safetensors`, whose parameters were saved by TinyWorlds itself.
`torch.load(weights_only=True)` must read every checkpoint; its model must have exactly those names, shapes and types, and
its optimizer AdamW moments for every parameter. The run directory in `--into` is kept for other checks.

Prints a line per failure and `N passed, N failed`; exits 1 if anything failed or nothing was checked.
"""

import argparse
import json
import pathlib
import shutil
import struct
import subprocess

import h5py
import numpy
import torch

from checks import check_equal, finish

STAGES = ("video_tokenizer", "latent_actions", "dynamics")
TYPES = {"F32": torch.float32, "I64": torch.int64}


def tinyworlds_parameters(fixture):
    """Names, shapes and types of the parameters in a fixture, from its header."""
    with open(fixture, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    prefix = "param."
    return {
        name[len(prefix):]: (entry["shape"], TYPES[entry["dtype"]])
        for name, entry in header.items()
        if name.startswith(prefix)
    }


def train(arguments, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with h5py.File(arguments.data, "r") as file:
        frames = file["frames"][:400, ::2, ::2]
    numpy.save(folder / "frames.npy", numpy.ascontiguousarray(frames))
    config = folder / "short.toml"
    shutil.copy(pathlib.Path(__file__).parent / "short.toml", config)
    run = folder / "run"
    subprocess.run([arguments.tinygate, "run", str(config), "--dir", str(run), "--quiet"], check=True)
    return run


def check_stage(run, stage, expected):
    checkpoints = sorted((run / stage / "checkpoints").glob(f"{stage}_step_*"))
    check_equal(f"{stage} has checkpoints", bool(checkpoints), True)
    for checkpoint in checkpoints:
        model = torch.load(checkpoint / "model_state_dict.pt", weights_only=True)
        found = {name: (list(tensor.shape), tensor.dtype) for name, tensor in model.items()}
        check_equal(f"{checkpoint.name}: names, shapes and types", found, expected)
        optimizer = torch.load(checkpoint / "optim_state_dict.pt", weights_only=True)
        names = [name for group in optimizer["param_groups"] for name in group["param_names"]]
        trained = [name for name in expected if not name.endswith("quantizer.basis")]
        check_equal(f"{checkpoint.name}: every parameter has moments", sorted(names), sorted(trained))
        for number, name in enumerate(names):
            shape = list(optimizer["state"][number]["exp_avg_sq"].shape)
            check_equal(f"{checkpoint.name}: moments of {name}", shape, expected[name][0])
        state = torch.load(checkpoint / "state.pt", weights_only=True)
        step = int(checkpoint.name.rsplit("_", 1)[1])
        check_equal(f"{checkpoint.name}: updates done", (state["updates_done"], state["step"]), (step, step - 1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tinygate", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--fixtures", required=True, type=pathlib.Path)
    parser.add_argument("--into", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    run = train(arguments, arguments.into)
    for stage in STAGES:
        check_stage(run, stage, tinyworlds_parameters(arguments.fixtures / f"small_{stage}.safetensors"))
    finish()


if __name__ == "__main__":
    main()
