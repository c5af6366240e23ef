#!/usr/bin/env python3
"""Compares tinygate's torch.save files with the real PyTorch, in both directions.

    torch_files.py --reader PATH_OF_EXAMPLE [--checkpoint DIR]...

PATH_OF_EXAMPLE is the built `examples/torch_file.rs`. `torch.load(weights_only=True)` must
read what it writes, with the expected content, and it must read what PyTorch writes, bit for
bit. Each `--checkpoint` is a directory with the three files of a checkpoint (by tinygate or
TinyWorlds), which both must read with the same result.

Prints a line per failure and `N passed, N failed`; exits 1 if anything failed or
nothing was checked.
"""

import argparse
import collections
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy
import torch

from checks import check, check_equal, finish


def tensor_bytes(tensor):
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def described(value):
    """Describes a value in the form of `examples/torch_file.rs`."""
    if value is None:
        return ["None", None]
    if isinstance(value, bool):
        return ["bool", value]
    if isinstance(value, int):
        return ["int", value]
    if isinstance(value, float):
        return ["float", struct.pack(">d", value).hex()]
    if isinstance(value, str):
        return ["str", value]
    if isinstance(value, torch.Tensor):
        data = tensor_bytes(value)
        content = {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "bytes": len(data),
            "crc32": zlib.crc32(data),
        }
        return ["Tensor", content]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [described(item) for item in value]]
    if isinstance(value, dict):
        ordered = isinstance(value, collections.OrderedDict)
        kind = "OrderedDict" if ordered else "dict"
        return [kind, [[described(k), described(v)] for k, v in value.items()]]
    if isinstance(value, torch.device):
        return ["opaque", "torch.device"]
    if isinstance(value, torch.dtype):
        return ["opaque", str(value)]
    return ["opaque", f"{type(value).__module__}.{type(value).__qualname__}"]


class Reader:
    """The example binary."""

    def __init__(self, path):
        self.path = path

    def run(self, *arguments):
        command = [self.path, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    def json(self, *arguments):
        done = self.run(*arguments)
        if done.returncode != 0:
            return {"error": done.stderr.strip()}
        return json.loads(done.stdout)


def sample_expected():
    """The expected content of what `torch_file sample` writes."""
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
    tensors = collections.OrderedDict()
    for name in names.split():
        dtype = getattr(torch, name)
        raw = torch.tensor([i % 2 for i in range(6 * dtype.itemsize)], dtype=torch.uint8)
        tensors[name] = raw.view(dtype).reshape(2, 3)
    return {
        "tensors": tensors,
        "scalar": torch.tensor(-0.5),
        "empty": torch.empty(0, 3),
        "ints": [0, 255, 256, 65536, -1, 2**31, -(2**31), 2**63 - 1, -(2**63)],
        "floats": (0.1, -0.0, math.inf, -math.inf, sys.float_info.min),
        "nothing": (),
        "none": None,
        "flags": [True, False],
        "größe": "größer als 0, \U0001f3ae",
        "by index": {3: "three"},
    }


def check_written_by_us(reader, folder):
    made = reader.json("sample", folder)
    check("a sample is written", "error" not in made, str(made))
    expected = described(sample_expected())
    for mapped in (False, True):
        loaded = torch.load(folder / "sample.pt", weights_only=True, mmap=mapped)
        check_equal(f"our sample in PyTorch, mmap={mapped}", described(loaded), expected)
    unrestricted = torch.load(folder / "sample.pt", weights_only=False)
    check_equal("our sample by Python's own unpickler", described(unrestricted), expected)
    check_equal("our sample in our reader", reader.json("read", folder / "sample.pt")["value"], expected)
    check_resumed_in_pytorch(folder / "sample_step_7")
    check_checkpoint(reader, folder / "sample_step_7")


def check_resumed_in_pytorch(directory):
    """Checks that PyTorch can resume from tinygate's model and optimizer as if it had written them."""
    load = lambda name: torch.load(directory / name, weights_only=True)
    model = torch.nn.Linear(3, 5)
    missing, unexpected = model.load_state_dict(load("model_state_dict.pt"))
    check("no name is missing or unexpected", not missing and not unexpected)
    weight = torch.arange(15).reshape(5, 3) * 0.5
    check("the weights are ours", torch.equal(model.weight.detach(), weight))
    groups = [
        {"params": [("weight", model.weight)], "weight_decay": 0.5},
        {"params": [("bias", model.bias)], "weight_decay": 0.5},
    ]
    for named in (True, False):
        if not named:
            groups = [{"params": [model.weight]}, {"params": [model.bias]}]
        optimizer = torch.optim.AdamW(groups, lr=1.0)
        optimizer.load_state_dict(load("optim_state_dict.pt"))
        state = optimizer.state[model.weight]
        check(f"the step is ours, named={named}", state["step"].item() == 7)
        moments = torch.arange(15).reshape(5, 3)
        check(f"exp_avg is ours, named={named}", torch.equal(state["exp_avg"], moments * 0.25))
        check(f"exp_avg_sq is ours, named={named}", torch.equal(state["exp_avg_sq"], moments * 0.125))
        settings = [(g["lr"], g["weight_decay"], g["betas"], g["eps"]) for g in optimizer.param_groups]
        ours = [(3e-5, decay, (0.9, 0.999), 1e-8) for decay in (0.01, 0.0)]
        check_equal(f"the settings are ours, named={named}", settings, ours)
        before = model.weight.detach().clone()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        check(f"PyTorch trains on, named={named}", not torch.equal(before, model.weight))
    state = load("state.pt")
    check("the state is plain", state["config"] == {"patch_size": 8, "amp": False})


class Conditioned(torch.nn.Module):
    """A model with nested names, a buffer, tied weights and a parameter without gradient."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])
        self.head = torch.nn.Linear(4, 4, bias=False)
        self.head.weight = self.blocks[0].weight
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("basis", torch.tensor([1, 4, 16]))

    def forward(self, x):
        return self.head(self.blocks[1](self.blocks[0](x)))


def optimizers():
    model = Conditioned()
    model(torch.randn(2, 4)).sum().backward()
    plain = torch.optim.AdamW(model.parameters(), lr=1e-3)
    named = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    amsgrad = torch.optim.AdamW(model.parameters(), amsgrad=True, fused=True)
    momentum = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for optimizer in (plain, named, amsgrad, momentum):
        optimizer.step()
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    scheduler = torch.optim.lr_scheduler.LambdaLR(plain, [lambda step: 1.0])
    return {
        "module": model.state_dict(),
        "AdamW": plain.state_dict(),
        "AdamW by name": get_optimizer_state_dict(model, plain),
        "AdamW with names": named.state_dict(),
        "AdamW amsgrad": amsgrad.state_dict(),
        "SGD": momentum.state_dict(),
        "scheduler": scheduler.state_dict(),
    }


def written_by_pytorch():
    torch.manual_seed(0)
    base = torch.randn(6, 7, 8)
    every = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    every += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
    values = {
        f"{dtype} of shape {shape}": (torch.randn(shape) * 50).to(dtype)
        for dtype in every
        for shape in [(), (0,), (1,), (5,), (2, 3), (3, 0, 2), (2, 1, 3, 1)]
    }
    values |= {
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(2, 0, 1),
        "sliced": base[1:5:2, :, 3:6],
        "one row": base[4],
        "diagonal": base[0].diagonal(),
        "expanded": torch.randn(3, 1).expand(3, 200),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "flipped": base.flip(0),
        "unfolded": torch.arange(20.0).unfold(0, 5, 2),
        "tied": {"a": base, "b": base, "c": base[2:], "d": base.view(-1)},
        "parameter": torch.nn.Parameter(base),
        "requires grad": base.clone().requires_grad_(),
        "not finite": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        "ints": [0, 255, 256, 65535, 65536, -1, -256, 2**31, -(2**31), 2**63 - 1, -(2**63)],
        "floats": [0.0, -0.0, 1e-320, math.inf, -math.inf, math.pi],
        "NaN": math.nan,
        "strings": ["", "a\nb", "ünïcödé", "\U0001f3ae", "x" * 1000],
        "nested": {"a": [{"b": ({"c": [None, True, False]},)}, ()], 3: [], "": {}},
        "size": torch.Size([3, 4]),
        "long tuple": tuple(range(10)),
        "long list": list(range(5000)),
        "long dict": {f"key {i}": i for i in range(5000)},
        "many tensors": collections.OrderedDict((f"t{i}", torch.full((i % 5,), i)) for i in range(1000)),
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "shared list": (lambda shared: [shared, shared, {"again": shared}])([1, 2]),
        "device and dtype": {"device": torch.device("cpu"), "dtype": torch.bfloat16},
        "32 MB": torch.randn(8_000_000),
    }
    return values | optimizers()


def check_written_by_pytorch(reader, folder):
    path = folder / "pytorch.pt"
    for name, value in written_by_pytorch().items():
        torch.save(value, path)
        read = reader.json("read", path)
        check_equal(f"PyTorch's {name}", read.get("value", read), described(value))
        check_equal(f"nothing foreign in PyTorch's {name}", read.get("foreign"), [])


def check_refused_or_opaque(reader, folder):
    """Checks that Python objects are identified by name, and that files that are not archives are rejected."""
    path = folder / "foreign.pt"
    torch.save({"path": pathlib.PurePosixPath("/tmp")}, path)
    read = reader.json("read", path)
    check("a foreign class is named", any("PurePosixPath" in name for name in read["foreign"]), str(read))
    torch.save({"array": numpy.arange(3)}, path)
    read = reader.json("read", path)
    check("a numpy array is foreign", len(read["foreign"]) > 0, str(read))

    options = {
        "the old format": {"_use_new_zipfile_serialization": False},
        "pickle protocol 3": {"pickle_protocol": 3},
        "pickle protocol 4": {"pickle_protocol": 4},
        "pickle protocol 5": {"pickle_protocol": 5},
    }
    for name, options in options.items():
        value = {"a": torch.ones(2), "b": [1, "x", None, 0.5]}
        torch.save(value, path, **options)
        read = reader.json("read", path)
        check_equal(f"{name} is read", read.get("value", read), described(value))
    for name, value in {
        "complex numbers": torch.ones(2, dtype=torch.complex64),
        "conjugated numbers": torch.ones(2, dtype=torch.complex64).conj(),
        "negated by a flag": torch._neg_view(torch.ones(2)),
    }.items():
        torch.save(value, path)
        read = reader.json("read", path)
        check(f"{name} stay closed", read.get("value", [""])[0] == "opaque", str(read))
    cyclic = []
    cyclic.append(cyclic)
    torch.save(cyclic, path)
    check("a list that holds itself is refused", "error" in reader.json("read", path))


def check_checkpoint(reader, directory):
    """Checks that PyTorch and tinygate read a checkpoint directory with the same result."""
    verdict = reader.json("accept", directory)
    check(f"{directory} is accepted", verdict.get("verdict") == "accepted", str(verdict))
    for name in ("model_state_dict.pt", "optim_state_dict.pt"):
        loaded = torch.load(directory / name, weights_only=True, map_location="cpu")
        read = reader.json("read", directory / name)
        check_equal(f"{directory / name}", read.get("value", read), described(loaded))
        if name.startswith("model"):
            tensors = all(isinstance(value, torch.Tensor) for value in loaded.values())
            check(f"{directory / name} holds tensors", len(loaded) > 0 and tensors)
            print(f"{directory / name}: {len(loaded)} tensors")
            for key, value in loaded.items():
                print(f"  {key} {list(value.shape)} {value.dtype}")
    read = reader.json("read", directory / "state.pt")
    check(f"{directory / 'state.pt'} is read", "value" in read, str(read))
    if not read.get("foreign"):
        loaded = torch.load(directory / "state.pt", weights_only=True)
        check_equal(f"{directory / 'state.pt'}", read.get("value"), described(loaded))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", required=True, help="the built examples/torch_file.rs")
    parser.add_argument("--checkpoint", action="append", default=[], type=pathlib.Path, metavar="DIR")
    arguments = parser.parse_args()
    reader = Reader(arguments.reader)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        check_written_by_us(reader, folder)
        check_written_by_pytorch(reader, folder)
        check_refused_or_opaque(reader, folder)
    for directory in arguments.checkpoint:
        check_checkpoint(reader, directory)
    finish(f" (PyTorch {torch.__version__})")


if __name__ == "__main__":
    main()
