#!/usr/bin/env python3
"""Writes checkpoints of many forms with the real PyTorch, and checks what tinygate says each is good for.

    checkpoint_files.py --tinygate PATH_OF_PROGRAM --fixtures tests/fixtures

A row is a checkpoint and the expected verdict: good for `resume`, for its weights only, or for nothing, and the reason.
If the weights can be read, `checkpoint show` must find the same names, shapes and values as PyTorch. The model has
TinyWorlds' names, buffers and two groups of parameters. A few checkpoints have the shape of a real model; of these,
`run --init-from --dry-run` must accept exactly those that `verify` finds good.

Prints a line per failure, the number of rows and `N passed, N failed`; exits 1 if anything failed or nothing was checked.
"""

import argparse
import collections
import copy
import dataclasses
import io
import json
import math
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import warnings
import zipfile

import numpy
import torch
import torch.distributed.checkpoint
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from checks import check, finish

warnings.filterwarnings("ignore")  # sparse, quantized and nested tensors are experimental

NAME = "video_tokenizer_step_6"
MODEL, OPTIMIZER, STATE = "model_state_dict.pt", "optim_state_dict.pt", "state.pt"

rows = []


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Linear(6, 6)
        self.norm = torch.nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(self.proj(x)) + x


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Block()
        self.decoder = Block()
        self.register_buffer("basis", torch.tensor([1, 4, 16, 64, 256]))

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Muon(torch.optim.Optimizer):
    """Only what it writes to a file: momentum and TinyWorlds' settings."""

    def __init__(self, parameters, lr=1e-3):
        super().__init__(parameters, {"lr": lr, "momentum": 0.95, "backend_steps": 5, "nesterov": True, "weight_decay": 0.0})

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.mul_(group["momentum"]).add_(parameter.grad)


@dataclasses.dataclass
class Config:
    num_heads: int = 4


def groups(model, named=False):
    """TinyWorlds' two groups."""
    decay, plain = [], []
    for name, parameter in model.named_parameters():
        decays = parameter.dim() >= 2 and "norm" not in name and not name.endswith(".bias")
        (decay if decays else plain).append((name, parameter) if named else parameter)
    return [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]


def train(model, optimizer, steps=7):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(3, 6)).square().mean().backward()
        optimizer.step()


class Made:
    """A trained model with its optimizer, as plain dicts that a row can change."""

    def __init__(self, optimizer=None, wrap=lambda model: model):
        torch.manual_seed(1)
        self.net = wrap(Model())
        self.trainer = (optimizer or (lambda model: torch.optim.AdamW(groups(model), lr=1e-3)))(self.net)
        train(self.net, self.trainer)
        self.model = copy.deepcopy(self.net.state_dict())
        self.optimizer = copy.deepcopy(self.trainer.state_dict())
        config = {"num_heads": 4, "learning_rate": 1e-3, "dataset": "PONG"}
        self.state = {"scheduler_state_dict": {"last_epoch": 7, "_last_lr": [1e-3]}, "config": config, "step": 6, "timestamp": "2026_01_01"}

    def moments(self):
        return self.optimizer["state"].values()

    def renamed(self, rename):
        self.model = collections.OrderedDict((rename(name), tensor) for name, tensor in self.model.items())
        return self

    def cast(self, dtype):
        def to(tensor):
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        self.model = collections.OrderedDict((name, to(tensor)) for name, tensor in self.model.items())
        for moments in self.moments():
            for key in ("exp_avg", "exp_avg_sq"):
                moments[key] = to(moments[key])
        return self

    def save(self, folder, **options):
        place = folder / NAME
        place.mkdir(parents=True)
        for name, value in ((MODEL, self.model), (OPTIMIZER, self.optimizer), (STATE, self.state)):
            torch.save(value, place / name, **options)
        return place


def row(name, good_for, reason=None, expected=None):
    """Registers a row. The function writes the checkpoint into a folder, and returns its path and the model whose
    tensors must be found (None: they are not checked)."""

    def register(make):
        rows.append((name, good_for, reason, make))
        return make

    return register


def changed(name, good_for, change, reason=None, looked_at=True, **options):
    """A row whose checkpoint is the usual one after `change`."""

    def make(folder):
        made = Made()
        made = change(made) or made
        return made.save(folder, **options), made.model if looked_at else None

    rows.append((name, good_for, reason, make))


def single(name, good_for, top, reason=None, file="sonic_video_tokenizer_step_6_2025_09_17.pth", by_folder=False):
    """A row whose checkpoint is one file."""

    def make(folder):
        made = Made()
        path = folder / file
        torch.save(top(made), path)
        return (folder if by_folder else path), None if good_for == "nothing" else made.model

    rows.append((name, good_for, reason, make))


def setting(key, value):
    def change(made):
        for group in made.optimizer["param_groups"]:
            group[key] = value

    return change


def without(key):
    def change(made):
        for group in made.optimizer["param_groups"]:
            group.pop(key, None)

    return change


def moment(key, value, index=0):
    def change(made):
        list(made.moments())[index][key].view(-1)[0] = value

    return change


def weight(value):
    def change(made):
        made.model["encoder.proj.weight"][0, 0] = value

    return change


def in_state(value):
    def change(made):
        made.state["more"] = value

    return change


def steps(convert):
    def change(made):
        for moments in made.moments():
            moments["step"] = convert(moments["step"])

    return change


def half_renamed(made):
    return made.renamed(lambda name: f"_orig_mod.{name}" if name.startswith("encoder") else name)


def clash(made):
    made.model["_orig_mod.encoder.proj.weight"] = made.model["encoder.proj.weight"]


def experts(made):
    for index in range(4):
        made.model[f"blocks.0.ffn.experts.{index}.w_v.weight"] = torch.ones(2, 2)


def shared(made):
    storage = torch.cat([tensor.reshape(-1) for tensor in made.model.values() if tensor.is_floating_point()])
    at = 0
    for name, tensor in made.model.items():
        if tensor.is_floating_point():
            made.model[name] = storage[at : at + tensor.numel()].view(tensor.shape)
            at += tensor.numel()


def transposed(made):
    name = "encoder.proj.weight"
    made.model[name] = made.model[name].t().contiguous().t()


def by_name(made):
    names = [name for group in groups(made.net, named=True) for name, _ in group["params"]]
    made.optimizer["state"] = {names[index]: moments for index, moments in made.optimizer["state"].items()}
    for group in made.optimizer["param_groups"]:
        group["params"] = [names[index] for index in group["params"]]
    return names


def by_wrapped_name(made):
    by_name(made)
    made.optimizer["state"] = {f"_orig_mod.module.{name}": moments for name, moments in made.optimizer["state"].items()}
    for group in made.optimizer["param_groups"]:
        group["params"] = [f"_orig_mod.module.{name}" for name in group["params"]]


def define_rows():
    # As PyTorch makes them.
    changed("the three files", "resume", lambda made: None)
    changed("with the old format", "resume", lambda made: None, _use_new_zipfile_serialization=False)
    for protocol in (3, 4, 5):
        changed(f"pickle protocol {protocol}", "resume", lambda made: None, pickle_protocol=protocol)
        changed(f"the old format, protocol {protocol}", "resume", lambda made: None, _use_new_zipfile_serialization=False, pickle_protocol=protocol)

    # One file.
    whole = lambda key, optimizer: lambda made: {key: made.model, optimizer: made.optimizer, "scheduler_state_dict": {}, "config": {"num_heads": 4}}
    single("a published file", "resume", whole("model", "optimizer_state_dict"))
    single("a published file by its folder", "resume", whole("model", "optimizer_state_dict"), by_folder=True)
    single("`model_state_dict`", "resume", whole("model_state_dict", "optimizer_state_dict"), file="video_tokenizer.pt")
    single("`state_dict` of a Lightning kind", "resume", lambda made: {"state_dict": {f"model.{k}": v for k, v in made.model.items()}, "optimizer_states": [made.optimizer], "global_step": 7}, file="last.ckpt")
    single("a file with a Namespace", "resume", lambda made: {"model": made.model, "optimizer": made.optimizer, "args": argparse.Namespace(lr=1)})
    single("a model in a model", "resume", lambda made: {"model": {"state_dict": made.model}, "optimizer": made.optimizer})
    beside = lambda made: {"model": made.model, "optimizer": made.optimizer, "rng_state": torch.get_rng_state(), "loss_history": torch.rand(50), "mean": torch.rand(3)}
    single("tensors beside the model", "resume", beside)
    single("a name at `model`", "resume", lambda made: {"model": "vit", "state_dict": made.model, "optimizer": made.optimizer})
    single("a plain state dict", "weights_only", lambda made: made.model, "no_optimizer")
    single("`{'state_dict': ..}` alone", "weights_only", lambda made: {"state_dict": made.model}, "no_optimizer")
    single("`{'model_state_dict': .., 'epoch': 3}`", "weights_only", lambda made: {"model_state_dict": made.model, "epoch": 3}, "no_optimizer", file="m.pt")
    single("a whole module", "nothing", lambda made: made.net, "foreign_code")
    single("a module under `model`", "nothing", lambda made: {"model": made.net}, "foreign_code")
    single("no model in it", "nothing", lambda made: {"loss": 1.0, "epoch": 3, "log": "x" * 2000}, "no_model")
    single("a list", "nothing", lambda made: [made.model], "not_a_dict")

    # Wrappers.
    for prefix in ("_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "model.", "model._orig_mod.", "module.module."):
        changed(f"names with `{prefix}`", "resume", lambda made, prefix=prefix: made.renamed(lambda name: prefix + name))
    changed("one block compiled", "resume", lambda made: made.renamed(lambda name: name.replace("encoder.", "encoder._orig_mod.")))
    changed("FSDP's wrappers", "resume", lambda made: made.renamed(lambda name: "_fsdp_wrapped_module." + name.replace("encoder.", "encoder._fsdp_wrapped_module.")))
    # PyTorch's own hook removes these, but files by DeepSpeed and older ones have them.
    changed("names of checkpointed activations", "resume", lambda made: made.renamed(lambda name: name.replace("encoder.", "encoder._checkpoint_wrapped_module.")))
    changed("half of the names", "nothing", half_renamed, "mixed_prefix", looked_at=False)
    changed("the same name twice", "nothing", clash, "mixed_prefix", looked_at=False)
    changed("an optimizer by name", "resume", lambda made: by_name(made) and None)
    changed("an optimizer by wrapped name", "resume", by_wrapped_name)

    @row("really compiled", "resume")
    def _(folder):
        made = Made()
        made.model = copy.deepcopy(torch.compile(made.net).state_dict())
        return made.save(folder), made.model

    @row("real DataParallel", "resume")
    def _(folder):
        made = Made()
        made.model = copy.deepcopy(torch.nn.DataParallel(made.net).state_dict())
        return made.save(folder), made.model

    @row("really checkpointed activations", "resume")
    def _(folder):
        made = Made()
        made.net.encoder = checkpoint_wrapper(made.net.encoder)
        made.model = copy.deepcopy(made.net.state_dict())
        return made.save(folder), made.model

    @row("an optimizer made of names", "resume")
    def _(folder):
        made = Made(lambda model: torch.optim.AdamW(groups(model, named=True), lr=1e-3))
        return made.save(folder), made.model

    @row("an optimizer made of compiled names", "resume")
    def _(folder):
        made = Made(lambda model: torch.optim.AdamW(groups(model, named=True), lr=1e-3), wrap=lambda model: torch.nn.Sequential(collections.OrderedDict(module=model)))
        return made.save(folder), made.model

    @row("one group of parameters", "resume")
    def _(folder):
        made = Made(lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3))
        return made.save(folder), made.model

    # Types.
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        changed(f"{dtype}", "resume", lambda made, dtype=dtype: made.cast(dtype))
    changed("a float64 beyond float32", "nothing", lambda made: weight(1e39)(made.cast(torch.float64)), "overflow")
    changed("a basis of int32", "resume", lambda made: made.model.update(basis=made.model["basis"].int()))
    changed("shared storage", "resume", shared)
    changed("a transposed view", "resume", transposed)
    changed("complex weights", "nothing", lambda made: made.model.update({"encoder.proj.bias": torch.ones(6, dtype=torch.complex64)}), "not_a_tensor", looked_at=False)
    changed("sparse weights", "nothing", lambda made: made.model.update({"encoder.proj.weight": torch.eye(6).to_sparse()}), "not_a_tensor", looked_at=False)

    # Moments and weights that training cannot use.
    changed("a NaN moment", "weights_only", moment("exp_avg", math.nan), "bad_moment")
    changed("an infinite moment", "weights_only", moment("exp_avg_sq", math.inf, 3), "bad_moment")
    changed("a negative square", "weights_only", moment("exp_avg_sq", -1e-9, 7), "bad_moment")
    changed("a moment of 1e30", "weights_only", moment("exp_avg", 1e30), "bad_moment")
    changed("a NaN weight", "nothing", weight(math.nan), "non_finite")
    changed("a weight of 1e38", "nothing", weight(1e38), "too_large_weight")
    changed("a weight of -1e25", "nothing", weight(-1e25), "too_large_weight")
    changed("a large weight that still works", "resume", weight(1e10))

    # Settings of the optimizer.
    changed("a rate as a tensor", "resume", setting("lr", torch.tensor(1e-3)))
    changed("a rate as a tensor of one", "resume", setting("lr", torch.tensor([1e-3], dtype=torch.float64)))
    for scalar in (numpy.float64, numpy.float32, numpy.float16):
        changed(f"a rate as {scalar.__name__}", "resume", setting("lr", scalar(1e-3)))
        changed(f"a rate as {scalar.__name__}, protocol 4", "resume", setting("lr", scalar(1e-3)), pickle_protocol=4)
    changed("a decay as int64", "resume", setting("weight_decay", numpy.int64(0)))
    changed("betas as a list of tensors", "resume", setting("betas", [torch.tensor(0.9), numpy.float64(0.999)]))
    for key in ("eps", "betas", "lr", "weight_decay", "amsgrad", "maximize", "foreach", "fused", "decoupled_weight_decay"):
        changed(f"no `{key}`", "resume", without(key))
    changed("unknown keys", "resume", setting("layer_decay", [0.5, {"x": None}]))
    changed("foreach, fused, capturable", "resume", lambda made: [setting(key, True)(made) for key in ("foreach", "fused", "capturable")] and None)
    changed("amsgrad", "weights_only", setting("amsgrad", True), "optimizer")
    changed("maximize", "weights_only", setting("maximize", True), "optimizer")
    changed("a rate in words", "weights_only", setting("lr", "fast"), "optimizer")
    changed("steps as ints", "resume", steps(lambda step: int(step)))
    changed("steps as int64", "resume", steps(lambda step: step.long()))
    changed("steps as float64", "resume", steps(lambda step: step.double()))
    changed("steps as NumPy numbers", "resume", steps(lambda step: numpy.int64(step)))
    changed("half a step", "weights_only", steps(lambda step: 6.5), "optimizer")

    for name, make in {
        "real AMSGrad": lambda model: torch.optim.AdamW(groups(model), amsgrad=True),
        "SGD with momentum": lambda model: torch.optim.SGD(groups(model), lr=0.1, momentum=0.9),
        "Muon": lambda model: Muon(groups(model)),
        "Adagrad": lambda model: torch.optim.Adagrad(groups(model)),
        "RMSprop": lambda model: torch.optim.RMSprop(groups(model)),
        "Adafactor": lambda model: torch.optim.Adafactor(groups(model)),
        "Adam with weight decay": lambda model: torch.optim.Adam(groups(model)),
        "RAdam": lambda model: torch.optim.RAdam(groups(model)),
        "NAdam": lambda model: torch.optim.NAdam(groups(model)),
        "Adamax": lambda model: torch.optim.Adamax(groups(model)),
    }.items():

        @row(f"an optimizer of another kind: {name}", "weights_only", "optimizer")
        def _(folder, make=make):
            made = Made(make)
            return made.save(folder), made.model

    @row("an Adam without weight decay", "resume")
    def _(folder):
        made = Made(lambda model: torch.optim.Adam(model.parameters()))
        return made.save(folder), made.model

    @row("PyTorch's own Muon", "weights_only", "optimizer")
    def _(folder):
        matrices = lambda model: [parameter for parameter in model.parameters() if parameter.dim() == 2]
        made = Made(lambda model: torch.optim.Muon(matrices(model), lr=1e-3))
        return made.save(folder), made.model

    changed("a mixture of experts", "nothing", experts, "mixture_of_experts")

    # What is missing.
    for missing, good_for, reason in ((OPTIMIZER, "weights_only", "missing_file"), (STATE, "weights_only", "missing_file"), (MODEL, "nothing", "missing_file")):

        @row(f"no {missing}", good_for, reason)
        def _(folder, missing=missing):
            made = Made()
            place = made.save(folder)
            (place / missing).unlink()
            return place, None if missing == MODEL else made.model

    changed("moments of all but one parameter", "weights_only", lambda made: made.optimizer["state"].pop(0) and None, "optimizer")
    changed("an empty optimizer", "weights_only", lambda made: made.optimizer.update(state={}), "empty_dict")

    # state.pt may hold anything.
    for name, value in {
        "uint16": torch.ones(3, dtype=torch.uint16),
        "uint64": torch.ones(3, dtype=torch.uint64),
        "float8": torch.ones(3).to(torch.float8_e5m2),
        "complex": torch.ones(3, dtype=torch.complex128),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
        "negated by a flag": torch._neg_view(torch.ones(3)),
        "sparse": torch.eye(3).to_sparse(),
        "sparse rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "meta": torch.ones(3, device="meta"),
        "with attributes": torch.nn.Parameter(torch.ones(3)),
        "an array": numpy.arange(3),
        "a date": numpy.datetime64("2026-01-01"),
        "a set": {1, 2},
        "a frozen set": frozenset({1}),
        "bytes": b"\x00\xff",
        "a bytearray": bytearray(b"ab"),
        "a complex number": 1 + 2j,
        "a path": pathlib.PurePosixPath("/tmp"),
        "a dataclass": Config(),
        "a default dict": collections.defaultdict(list, {"a": [1]}),
        "a device": torch.device("cuda:3"),
        "a dtype": torch.float8_e4m3fn,
        "a large number": 2**100,
        "a range": range(3),
    }.items():
        if name == "with attributes":
            value.mark = "x"
        changed(f"in state.pt: {name}", "resume", in_state(value))
        if name not in ("uint16", "uint64", "float8", "meta"):
            changed(f"in state.pt of the old format: {name}", "resume", in_state(value), _use_new_zipfile_serialization=False)

    @row("a distributed checkpoint", "nothing", "other_format")
    def _(folder):
        torch.distributed.checkpoint.save({"model": Made().model}, checkpoint_id=str(folder / "dcp"))
        return folder / "dcp", None

    # Zips.
    @row("without checksums", "resume")
    def _(folder):
        made = Made()
        torch.serialization.set_crc32_options(False)
        try:
            return made.save(folder), made.model
        finally:
            torch.serialization.set_crc32_options(True)

    @row("a zip's comment", "resume")
    def _(folder):
        made = Made()
        place = made.save(folder)
        with zipfile.ZipFile(place / MODEL, "a") as archive:
            archive.comment = b"downloaded"
        return place, made.model

    @row("bytes behind the end", "resume")
    def _(folder):
        made = Made()
        place = made.save(folder)
        with open(place / MODEL, "ab") as file:
            file.write(b"\0" * 4096)
        return place, made.model

    @row("zipped again, stored", "resume")
    def _(folder):
        made = Made()
        place = made.save(folder)
        zipped_anew(place / MODEL, zipfile.ZIP_STORED)
        return place, made.model

    @row("zipped again, compressed", "nothing", "unsupported")
    def _(folder):
        made = Made()
        place = made.save(folder)
        zipped_anew(place / MODEL, zipfile.ZIP_DEFLATED)
        return place, None

    @row("a flipped bit", "nothing", "damaged")
    def _(folder):
        made = Made()
        place = made.save(folder)
        content = bytearray((place / MODEL).read_bytes())
        at = content.index(made.model["encoder.proj.weight"].numpy().tobytes())
        content[at] ^= 1
        (place / MODEL).write_bytes(content)
        return place, None

    for share in (0.5, 0.9):

        @row(f"cut at {share}", "nothing", "truncated")
        def _(folder, share=share):
            made = Made()
            place = made.save(folder)
            content = (place / MODEL).read_bytes()
            (place / MODEL).write_bytes(content[: int(len(content) * share)])
            return place, None

        @row(f"the old format, cut at {share}", "nothing", "truncated")
        def _(folder, share=share):
            made = Made()
            place = made.save(folder, _use_new_zipfile_serialization=False)
            content = (place / MODEL).read_bytes()
            (place / MODEL).write_bytes(content[: int(len(content) * share)])
            return place, None

    # Other files.
    for name, content in {
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n",
        "a web page": b"<!DOCTYPE html><html>" + b" " * 2000,
        "safetensors": (8).to_bytes(8, "little") + b'{"a":{}}' + b"\0" * 2000,
        "gzip": b"\x1f\x8b" + b"\0" * 2000,
        "tar": tar_of({"sys_info": b"x", "pickle": b"y", "tensors": b"z" * 2000}),
    }.items():

        @row(f"no archive: {name}", "nothing", "other_format")
        def _(folder, content=content):
            place = Made().save(folder)
            (place / MODEL).write_bytes(content)
            return place, None

    @row("a TorchScript archive", "nothing", "unsupported")
    def _(folder):
        path = folder / "scripted.pt"
        torch.jit.trace(Model(), torch.randn(3, 6)).save(str(path))
        return path, None


def zipped_anew(path, method):
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records:
            archive.writestr(name, content)


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Program:
    def __init__(self, path):
        self.path = path

    def json(self, *arguments):
        done = subprocess.run([self.path, "checkpoint", *map(str, arguments), "--json"], capture_output=True, text=True, timeout=600)
        lines = done.stdout.splitlines()
        return done.returncode, [json.loads(line) for line in lines], done.stderr.strip()


def plain_name(name):
    parts = name.split(".")
    wrappers = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
    inner = [part for part in parts[:-1] if part not in wrappers]
    while inner and inner[0] in ("module", "model"):
        inner = inner[1:]
    return ".".join(inner + parts[-1:])


def check_tensors(name, program, path, model):
    code, shown, error = program.json("show", path)
    check(f"{name}: shown", code == 0 and len(shown) == 1, error)
    if not shown:
        return
    found = {tensor["name"]: tensor for tensor in shown[0]["tensors"]}
    expected = {plain_name(key): value for key, value in model.items()}
    check(f"{name}: names", list(found) == list(expected), f"found {list(found)}, expected {list(expected)}")
    for key, value in expected.items():
        tensor = found.get(key)
        if tensor is None:
            continue
        kind = (tensor["dtype"], tensor["shape"])
        check(f"{name}: {key}", kind == (str(value.dtype).removeprefix("torch."), list(value.shape)), str(kind))
        exact = value.double()
        if not bool(exact.isfinite().all()):
            check(f"{name}: {key} has no mean", tensor["mean"] is None)
            continue
        same = tensor["min"] == exact.min().item() and tensor["max"] == exact.max().item()
        same = same and math.isclose(tensor["mean"], math.fsum(exact.reshape(-1).tolist()) / exact.numel(), rel_tol=1e-9, abs_tol=1e-12)
        check(f"{name}: values of {key}", same, str(tensor))


def made_below(folder):
    """Each row with its checkpoint's path and model."""
    for index, (name, good_for, reason, make) in enumerate(rows):
        place = folder / str(index)
        place.mkdir()
        try:
            path, model = make(place)
        except Exception as error:  # a row that cannot be written must not hide the others
            check(f"{name}: made", False, repr(error))
            continue
        yield name, good_for, reason, path, model


def check_rows(program, made):
    _, verdicts, error = program.json("verify", *(path for _, _, _, path, _ in made))
    check("a verdict for each", len(verdicts) == len(made), f"{len(verdicts)} for {len(made)}: {error}")
    for (name, good_for, reason, path, model), verdict in zip(made, verdicts):
        found = (verdict["good_for"], verdict.get("reason", {}).get("code"))
        check(f"{name}: good for", found == (good_for, reason), f"found {found}, expected {(good_for, reason)}: {verdict.get('reason')}")
        if good_for == "resume":
            check(f"{name}: updates", verdict.get("step") == 7, str(verdict.get("step")))
        if model is not None:
            check_tensors(name, program, path, model)
    for good_for, expected in (("resume", 0), ("weights_only", 1), ("nothing", 1)):
        path = next(path for _, good, _, path, _ in made if good == good_for)
        code, _, _ = program.json("verify", path)
        check(f"the exit code of one that is good for {good_for}", code == expected, str(code))
        code, _, _ = program.json("verify", "--weights", path)
        check(f"with --weights, good for {good_for}", code == int(good_for == "nothing"), str(code))


class Given(Made):
    """TinyWorlds' own checkpoint, so that a stage can start from it."""

    def __init__(self, fixture):
        self.model = torch.load(fixture / MODEL, weights_only=True)
        self.optimizer = torch.load(fixture / OPTIMIZER, weights_only=True)
        self.state = {"config": {"num_heads": 4}, "step": 149}

    def save(self, folder, **options):
        made = super().save(folder, **options)
        return made.rename(made.with_name("video_tokenizer_step_149"))


def given_rows():
    """Checkpoints with the shape of a real model, and what each is good for."""

    def lion(made):
        for moments in made.moments():
            del moments["exp_avg_sq"]

    def coupled(made):
        setting("decoupled_weight_decay", False)(made)
        setting("weight_decay", 0.01)(made)

    return {
        "unchanged": ("resume", lambda made: None),
        "compiled names": ("resume", lambda made: made.renamed(lambda name: f"_orig_mod.{name}") and None),
        "bfloat16": ("resume", lambda made: made.cast(torch.bfloat16) and None),
        "a first moment only": ("weights_only", lion),
        "Adam with weight decay": ("weights_only", coupled),
        "a NaN moment": ("weights_only", moment("exp_avg", math.nan)),
        "moments of all but one parameter": ("weights_only", lambda made: made.optimizer["state"].pop(0) and None),
        "a NaN weight": ("nothing", lambda made: made.model["encoder.patch_embed.proj.bias"].fill_(math.nan)),
    }


SHAPE = (
    "frame_size=64", "patch_size=8", "context_length=4", "latent_dim=5", "num_bins=4", "video_tokenizer.embed_dim=16", "video_tokenizer.num_heads=4",
    "video_tokenizer.hidden_dim=64", "video_tokenizer.num_blocks=1", "video_tokenizer.n_updates=160", "data.frame_stride=1",
)  # fmt: skip


def check_given(program, fixtures, folder):
    """Checks that `--init-from` accepts exactly what `verify` finds good."""
    fixture = next((fixtures / "tinyworlds_checkpoint").glob("*_step_149"))
    folder.mkdir()
    numpy.save(folder / "frames.npy", numpy.random.default_rng(1).integers(0, 255, (200, 64, 64, 3), dtype=numpy.uint8))
    shutil.copy(pathlib.Path(__file__).with_name("short.toml"), folder / "config.toml")
    sets = [word for one in SHAPE for word in ("--set", one)]

    def dry_run(path, *more):
        command = [program.path, "run", folder / "config.toml", "--dry-run", "--stage", "video_tokenizer", "--init-from", path, *more, *sets]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)

    def made(name, change):
        given = Given(fixture)
        change(given)
        (folder / name).mkdir()
        return given.save(folder / name)

    for name, (good_for, change) in given_rows().items():
        # A dry run that is not rejected times a few updates, which takes a second.
        path = made(name, change)
        _, verdicts, error = program.json("verify", path)
        found = verdicts[0]["good_for"] if verdicts else error
        check(f"given, {name}: good for", found == good_for, f"found {found}, expected {good_for}")
        for more, accepted in (((), good_for == "resume"), (("--fresh-optimizer",), good_for != "nothing")):
            if more and good_for == "resume" and name != "unchanged":
                continue
            done = dry_run(path, *more)
            as_wanted = done.returncode == 0 if accepted else done.returncode == 2 and "error: `--init-from`" in done.stderr
            check(f"given, {name}: dry run {' '.join(more)}", as_wanted, f"{done.returncode}: {done.stderr.strip()}")
    path = made("other betas", setting("betas", (0.9, 0.95)))
    done = dry_run(path)
    check("given, other betas: refused by name", done.returncode == 2 and "`betas` = (0.9, 0.95)" in done.stderr, done.stderr)
    for more in ("--allow-other-settings", "--fresh-optimizer"):
        done = dry_run(path, more)
        check(f"given, other betas: {more}", done.returncode == 0, done.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tinygate", required=True, help="the built program")
    parser.add_argument("--fixtures", required=True, type=pathlib.Path, help="the folder of fixtures")
    arguments = parser.parse_args()
    program = Program(arguments.tinygate)
    define_rows()
    with tempfile.TemporaryDirectory() as folder:
        check_rows(program, list(made_below(pathlib.Path(folder))))
        check_given(program, arguments.fixtures, pathlib.Path(folder) / "given")
    print(f"{len(rows)} checkpoints")
    check("there are checkpoints", bool(rows))
    finish(f" (PyTorch {torch.__version__})")


if __name__ == "__main__":
    main()
