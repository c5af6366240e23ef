#!/usr/bin/env python3
"""Checks that tinygate reads or rejects unusual data files written by the real h5py, NumPy and Pillow.

    data_files.py --reader PATH_OF_EXAMPLE [--only TEXT]

PATH_OF_EXAMPLE is the built `examples/frames.rs`. Each row writes a file or folder and returns the expected result: exactly
these pixels, or this error. If the error has a hint with a NumPy expression, the row applies it, and the result must be
readable.

Prints a line per row and `N passed, N failed`; exits 1 if anything failed or nothing was checked.
"""

import argparse
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

import h5py
import hdf5plugin
import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from checks import fail, finish, ok

SIDE = 8
COUNT = 24
ROWS = []


def base(count=COUNT, seed=0):
    """Frames that use all of 0 to 255 and change from one to the next."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = 0, 255
    return frames


BASE = base()
UNIT = BASE.astype(np.float32) / 255


class Read:
    """The file is read with these pixels. `lengths` are those of the recordings."""

    def __init__(self, frames, paths=None, lengths=None, **described):
        self.frames, self.paths, self.lengths, self.described = frames, paths, lengths, described


class Refused:
    """The file is rejected with all of these texts. `mends` is the input of the hint's expression, and `gives` its
    expected result, to within `within`."""

    def __init__(self, *texts, paths=None, mends=None, gives=None, within=1):
        self.texts, self.paths, self.mends, self.gives, self.within = texts, paths, mends, gives, within


def row(name):
    """Registers a row. The function writes the file into a new folder and returns the expected result."""

    def add(make):
        ROWS.append((name, make))
        return make

    return add


def rows(*parameters):
    """One row per tuple: a name and the function's other arguments."""

    def add(make):
        for name, *arguments in parameters:
            ROWS.append((name, lambda folder, arguments=arguments: make(folder, *arguments)))
        return make

    return add


# HDF5


def hdf5(folder, fill, **options):
    path = folder / "a.h5"
    with h5py.File(path, "w", **options) as file:
        fill(file)
    return path


@rows(
    ("h5: contiguous", {}),
    ("h5: chunked", {"chunks": True}),
    ("h5: one chunk", {"chunks": (COUNT, SIDE, SIDE, 3)}),
    ("h5: a chunk beyond the shape", {"chunks": (100, SIDE, SIDE, 3), "maxshape": (None, SIDE, SIDE, 3)}),
    ("h5: edge chunks along all axes", {"chunks": (5, 3, 3, 2)}),
    ("h5: gzip", {"compression": "gzip"}),
    ("h5: gzip 9, shuffled", {"compression": "gzip", "compression_opts": 9, "shuffle": True}),
    ("h5: fletcher32", {"fletcher32": True}),
    ("h5: gzip, shuffled, fletcher32", {"compression": "gzip", "shuffle": True, "fletcher32": True}),
    ("h5: lzf", {"compression": "lzf"}),
    ("h5: lzf, shuffled, fletcher32", {"compression": "lzf", "shuffle": True, "fletcher32": True}),
    ("h5: scaleoffset", {"scaleoffset": 0}),
    ("h5: growable", {"maxshape": (None, SIDE, SIDE, 3), "chunks": (4, SIDE, SIDE, 3)}),
    ("h5: growable along all axes", {"maxshape": (None, None, None, None), "chunks": (4, SIDE, SIDE, 3)}),
    ("h5: big-endian uint8", {"dtype": ">u1"}),
    ("h5: a fill value", {"fillvalue": 9, "chunks": (4, SIDE, SIDE, 3)}),
    ("h5: times tracked", {"track_times": True}),
)
def _(folder, options):
    hdf5(folder, lambda file: file.create_dataset("frames", data=BASE, **options))
    return Read(BASE)


def knows(version):
    try:
        with h5py.File("probe", "w", driver="core", backing_store=False, libver=(version, version)):
            return True
    except ValueError:
        return version == "earliest"


VERSIONS = [version for version in ("earliest", "v108", "v110", "v112", "v114") if knows(version)]


@rows(*[(f"h5: format {version}, {name}", version, options) for version in VERSIONS for name, options in (
    ("contiguous", {}),
    ("chunked", {"chunks": (4, SIDE, SIDE, 3)}),
    ("one chunk, gzip", {"chunks": (COUNT, SIDE, SIDE, 3), "compression": "gzip"}),
    ("gzip, fletcher32", {"chunks": (5, SIDE, SIDE, 3), "compression": "gzip", "fletcher32": True}),
    ("growable", {"chunks": (4, SIDE, SIDE, 3), "maxshape": (None, SIDE, SIDE, 3)}),
    ("growable along two axes", {"chunks": (4, SIDE, SIDE, 3), "maxshape": (None, SIDE, None, 3)}),
)])
def _(folder, version, options):
    bounds = (version, version) if version != "earliest" else ("earliest", "v108")
    path = hdf5(folder, lambda file: file.create_dataset("frames", data=BASE, **options), libver=bounds)
    with h5py.File(path) as file:
        several = sum(side is None for side in file["frames"].maxshape) > 1
    if several and version not in ("earliest", "v108"):
        return Refused("can grow along several axes", "hint: ")
    return Read(BASE)


@row("h5: latest format, contiguous")
def _(folder):
    hdf5(folder, lambda file: file.create_dataset("frames", data=BASE), libver="latest")
    return Read(BASE)


@row("h5: latest format, gzip: data layout 5 of HDF5 2")
def _(folder):
    hdf5(folder, lambda file: file.create_dataset("frames", data=BASE, compression="gzip"), libver="latest")
    if h5py.version.hdf5_version_tuple < (2, 0, 0):
        return Read(BASE)
    return Refused("HDF5 2", "data layout version: 5", "library's defaults")


@row("h5: compact")
def _(folder):
    def fill(file):
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(BASE.shape)
        made = h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT8, space, settings)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, BASE)

    hdf5(folder, fill)
    return Read(BASE)


@row("h5: all chunks allocated early, no index")
def _(folder):
    def fill(file):
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((4, SIDE, SIDE, 3))
        settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple(BASE.shape)
        made = h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT8, space, settings)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, BASE)

    hdf5(folder, fill, libver=("v110", "v110"))
    return Read(BASE)


@row("h5: an array of arrays")
def _(folder):
    kind = np.dtype(("u1", (SIDE, SIDE, 3)))

    def fill(file):
        made = file.create_dataset("frames", (COUNT,), dtype=h5py.h5t.py_create(kind))
        made[...] = BASE

    hdf5(folder, fill)
    return Read(BASE)


@row("h5: a named type")
def _(folder):
    def fill(file):
        file["byte"] = np.dtype("u1")
        file.create_dataset("frames", data=BASE, dtype=file["byte"])

    hdf5(folder, fill)
    return Read(BASE)


@row("h5: a user block")
def _(folder):
    path = hdf5(folder, lambda file: file.create_dataset("frames", data=BASE), userblock_size=1024)
    with open(path, "r+b") as file:
        file.write(b"made by a camera")
    return Read(BASE)


@row("h5: a user block and a soft link")
def _(folder):
    def fill(file):
        file["camera"] = BASE
        file["frames"] = h5py.SoftLink("/camera")

    hdf5(folder, fill, userblock_size=512)
    return Read(BASE)


@row("h5: pages")
def _(folder):
    hdf5(folder, lambda file: file.create_dataset("frames", data=BASE), fs_strategy="page", fs_persist=True)
    return Read(BASE)


@row("h5: many attributes, scales, and an array deleted before")
def _(folder):
    def fill(file):
        file["old"] = BASE
        del file["old"]
        made = file.create_dataset("frames", data=BASE)
        for number in range(60):
            made.attrs[f"setting {number}"] = "x" * 100
        file["time"] = np.arange(COUNT)
        file["time"].make_scale("time")
        made.dims[0].attach_scale(file["time"])

    hdf5(folder, fill)
    return Read(BASE)


@row("h5: grown by appending")
def _(folder):
    def fill(file):
        made = file.create_dataset("frames", (0, SIDE, SIDE, 3), "u1", maxshape=(None, SIDE, SIDE, 3), compression="gzip")
        for number in range(COUNT):
            made.resize(number + 1, axis=0)
            made[number] = BASE[number]

    hdf5(folder, fill)
    return Read(BASE)


@row("h5: written and closed in SWMR mode")
def _(folder):
    def fill(file):
        made = file.create_dataset("frames", data=BASE, maxshape=(None, SIDE, SIDE, 3), chunks=(4, SIDE, SIDE, 3))
        file.swmr_mode = True
        made.flush()

    hdf5(folder, fill, libver=("v110", "v110"))
    return Read(BASE)


CRASH = """
import h5py, numpy, os, sys
file = h5py.File(sys.argv[1], "w", libver=("v110", "v110"))
made = file.create_dataset("frames", data=numpy.load(sys.argv[2]), maxshape=(None, 8, 8, 3), chunks=(4, 8, 8, 3))
file.flush()
if sys.argv[3] == "swmr":
    file.swmr_mode = True
    made.flush()
os._exit(0)
"""


@rows(("h5: a writer in SWMR mode crashed", "swmr"), ("h5: a writer crashed", "plain"))
def _(folder, mode):
    np.save(folder / "base.npy", BASE)
    path = folder / "a.h5"
    subprocess.run([sys.executable, "-c", CRASH, path, folder / "base.npy", mode], check=True)
    return Refused("open for writing", f"`h5clear -s {path}`", paths=[path])


EARLY = """
import h5py, numpy, os, sys
file = h5py.File(sys.argv[1], "w", libver=eval(sys.argv[2]))
made = file.create_dataset("frames", (24, 8, 8, 3), "u1", chunks=(4, 8, 8, 3), maxshape=(None, 8, 8, 3), compression="gzip")
made[:] = 1
os._exit(0)
"""


@rows(("h5: a writer crashed before it wrote", "None"), ("h5: the same, format 1.10", '("v110", "v110")'))
def _(folder, version):
    path = folder / "a.h5"
    subprocess.run([sys.executable, "-c", EARLY, path, version], check=True)
    return Refused("expected 2048", "the program that wrote it ended early", paths=[path])


@rows(
    ("h5: a soft link", {}, "/data/obs"),
    ("h5: a relative soft link", {}, "data/obs"),
    ("h5: a soft link, format 1.10", {"libver": ("v110", "v110")}, "/data/obs"),
    ("h5: a soft link, order tracked", {"track_order": True}, "/data/obs"),
    ("h5: a soft link to a soft link", {}, "/data/link"),
    ("h5: a soft link through a linked group", {}, "/latest/obs"),
)
def _(folder, options, target):
    def fill(file):
        file["data/obs"] = BASE
        file["data/link"] = h5py.SoftLink("obs")
        file["latest"] = h5py.SoftLink("/data")
        file["frames"] = h5py.SoftLink(target)

    hdf5(folder, fill, **options)
    return Read(BASE, lengths=[COUNT])


@rows(("h5: a soft link beside hard frames", {}), ("h5: the same, format 1.10", {"libver": ("v110", "v110")}))
def _(folder, options):
    def fill(file):
        file["frames"] = BASE
        file["again"] = h5py.SoftLink("/frames")
        file["gone"] = h5py.SoftLink("/nowhere")
        file["away"] = h5py.ExternalLink("other.h5", "/frames")

    hdf5(folder, fill, **options)
    return Read(BASE)


@rows(
    ("h5: a soft link among 20", 20, {}),
    ("h5: a soft link among 500", 500, {}),
    ("h5: a soft link among 20, order tracked", 20, {"track_order": True}),
    ("h5: a soft link among 20, format 1.10", 20, {"libver": ("v110", "v110")}),
    ("h5: a soft link among 400, format 1.10", 400, {"libver": ("v110", "v110")}),
)
def _(folder, count, options):
    def fill(file):
        file["data/obs"] = BASE
        file["frames"] = h5py.SoftLink("/data/obs")
        for number in range(count):
            file[f"a setting with a long name {number}"] = h5py.SoftLink("/data/obs")

    hdf5(folder, fill, **options)
    return Read(BASE, lengths=[COUNT])


@row("h5: a hard link")
def _(folder):
    def fill(file):
        file["video"] = BASE
        file["frames"] = file["video"]

    hdf5(folder, fill)
    return Read(BASE)


@rows(("h5: a soft link to nowhere", "/nowhere"), ("h5: a soft link to itself", "/frames"))
def _(folder, target):
    def fill(file):
        file["video"] = BASE
        file["frames"] = h5py.SoftLink(target)

    hdf5(folder, fill)
    return Refused(target, "the link has no target")


@rows(("h5: an external link", {}), ("h5: an external link, format 1.10", {"libver": ("v110", "v110")}))
def _(folder, options):
    with h5py.File(folder / "other.h5", "w") as other:
        other["obs"] = BASE

    def fill(file):
        file["frames"] = h5py.ExternalLink("other.h5", "/obs")

    path = hdf5(folder, fill, **options)
    return Refused("external link to `/obs` in `other.h5`", "hint: ", paths=[path])


@row("h5: frames in a group")
def _(folder):
    hdf5(folder, lambda file: file.create_dataset("data/demo/frames", data=BASE))
    return Read(BASE, lengths=[COUNT])


@rows(
    ("h5: frames in several groups", 12, {}),
    ("h5: frames in several groups, order tracked", 12, {"track_order": True}),
    ("h5: frames in several groups, format 1.10", 12, {"libver": ("v110", "v110")}),
    ("h5: frames in many groups", 300, {}),
)
def _(folder, count, options):
    clips = [base(3, seed) for seed in range(count)]

    def fill(file):
        for number in reversed(range(count)):
            file[f"ep{number}/frames"] = clips[number]

    hdf5(folder, fill, **options)
    return Read(np.concatenate(clips), lengths=[3] * count)


@row("h5: one array in two groups is read once")
def _(folder):
    def fill(file):
        file["a/frames"] = BASE
        file["b/frames"] = file["a/frames"]
        file["latest"] = h5py.SoftLink("/a")
        file["c/frames"] = h5py.SoftLink("/a/frames")

    hdf5(folder, fill)
    return Read(BASE, lengths=[COUNT])


@rows(*[
    (f"h5: one array with several names among {count} groups, format {lib}", count, ring, {"libver": (lib, lib)})
    for lib in VERSIONS if lib not in ("earliest", "v108") for count, ring in ((10, True), (1000, False), (1500, True))
])
def _(folder, count, ring, options):
    def fill(file):
        for number in range(count):
            file.create_group(f"ep{number}")
        file["ep0/frames"] = BASE
        file["ep9/frames"] = base(seed=9)
        file["latest"] = file["ep9"]
        for number in range(1, 9):
            file[f"ep{number}/frames"] = file["ep9/frames"]
        if ring:
            file["ep0/parent"] = file["/"]

    hdf5(folder, fill, **options)
    return Read(np.concatenate([BASE, base(seed=9)]), lengths=[COUNT, COUNT])


@rows(*[(f"h5: 40000 links, format {version}", {"libver": (version, version)}) for version in VERSIONS if version != "earliest"])
def _(folder, options):
    def fill(file):
        file["frames"] = BASE
        file["z/frames"] = BASE
        group = file.create_group("data")
        for number in range(40_000):
            group[f"a long name of a link {number}"] = file["frames"]
        file.create_dataset("data/demo/frames", data=BASE)

    hdf5(folder, fill, **options)
    why = "array `frames` in a group, beside the one at the top"
    return Read(BASE, passed_over=[(why, 2, "/data/demo/frames")])


@rows(("h5: an external link to frames in a group", "/ep1/frames", "/ep1/frames"), ("h5: an external link to a group", "/ep1", "/ep1"))
def _(folder, name, target):
    with h5py.File(folder / "other.h5", "w") as other:
        other["ep1/frames"] = BASE

    def fill(file):
        file["ep0/frames"] = BASE
        file[name] = h5py.ExternalLink("other.h5", target)

    path = hdf5(folder, fill)
    if name.endswith("frames"):
        return Refused("`ep1/frames` is an external link to `/ep1/frames` in `other.h5`", "hint: ", paths=[path])
    return Read(BASE, paths=[path], passed_over=[("link into another file, which is not followed", 1, "/ep1")])


@row("h5: groups that are all external links")
def _(folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["ep1/frames"] = BASE

    def fill(file):
        for number in range(3):
            file[f"ep{number}"] = h5py.ExternalLink("other.h5", "/ep1")

    return Refused("`ep0` is an external link to `/ep1` in `other.h5`", 'f["ep0/frames"][:]', paths=[hdf5(folder, fill)])


@row("h5: a soft link in a group to nowhere")
def _(folder):
    def fill(file):
        file["ep0/frames"] = BASE
        file["ep1/frames"] = h5py.SoftLink("/nowhere")

    hdf5(folder, fill)
    return Read(BASE, passed_over=[("link that leads nowhere", 1, "/ep1/frames")])


@row("h5: a group too deep in others")
def _(folder):
    def fill(file):
        file["ep0/frames"] = BASE
        file["/".join("abcdefghijklmnopq") + "/frames"] = BASE

    hdf5(folder, fill)
    return Read(BASE, passed_over=[("group that lies too deep in others", 1, "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q")])


@row("h5: 12000 arrays in groups")
def _(folder):
    def fill(file):
        for number in range(3000):
            for name in ("actions", "rewards", "states"):
                file[f"data/demo_{number}/{name}"] = number
            file[f"data/demo_{number}/frames"] = BASE[:2]

    hdf5(folder, fill)
    return Read(np.concatenate([BASE[:2]] * 3000), lengths=[2] * 3000)


@row("h5: frames at the top and in groups")
def _(folder):
    def fill(file):
        file["frames"] = BASE
        file["again/frames"] = file["frames"]
        for number in range(3):
            file[f"ep{number}/frames"] = BASE

    hdf5(folder, fill)
    why = "array `frames` in a group, beside the one at the top"
    return Read(BASE, passed_over=[(why, 3, "/ep0/frames")])


@row("h5: groups in a ring")
def _(folder):
    def fill(file):
        file["a/frames"] = BASE
        file["a/b"] = file["/"]

    hdf5(folder, fill)
    return Read(BASE, lengths=[COUNT])


@rows(
    ("h5: an array of another name", {}, 1),
    ("h5: an array of another name among many", {}, 30),
    ("h5: an array of another name, format 1.10", {"libver": ("v110", "v110")}, 30),
)
def _(folder, options, count):
    def fill(file):
        file["video"] = BASE
        for number in range(1, count):
            file[f"x{number}"] = number

    hdf5(folder, fill, **options)
    return Refused("no array `frames`", "`video`", '`f["frames"] = f["')


@row("h5: a group is called frames")
def _(folder):
    hdf5(folder, lambda file: file.create_dataset("frames/left", data=BASE))
    return Refused("no array `frames`", "`frames/left`")


@row("h5: no array at all")
def _(folder):
    hdf5(folder, lambda file: None)
    return Refused("no array `frames`", "hint: ")


@rows(
    ("h5: never written, contiguous", {}),
    ("h5: never written, chunked", {"chunks": True}),
    ("h5: never written, a fill value", {"chunks": True, "fillvalue": 200}),
    ("h5: never written, gzip", {"compression": "gzip"}),
)
def _(folder, options):
    hdf5(folder, lambda file: file.create_dataset("frames", BASE.shape, "u1", **options))
    return Refused("are the same picture", "every pixel", "never written")


@row("h5: a middle chunk never written")
def _(folder):
    frames = BASE.copy()
    frames[8:12] = 0

    def fill(file):
        made = file.create_dataset("frames", BASE.shape, "u1", chunks=(4, SIDE, SIDE, 3))
        made[:8], made[12:] = BASE[:8], BASE[12:]

    hdf5(folder, fill)
    return Read(frames, passed_over=[("chunk never written, reads as the fill value", 1, "from frame 8 on")])


@row("h5: the end never written")
def _(folder):
    def fill(file):
        made = file.create_dataset("frames", (100, SIDE, SIDE, 3), "u1", chunks=(4, SIDE, SIDE, 3))
        made[:COUNT] = BASE

    hdf5(folder, fill)
    return Refused("held-out windows", "never change", "still end", "19 chunks were never written")


@row("h5: virtual")
def _(folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["frames"] = BASE

    def fill(file):
        layout = h5py.VirtualLayout(BASE.shape, "u1")
        layout[:] = h5py.VirtualSource("other.h5", "frames", BASE.shape)
        file.create_virtual_dataset("frames", layout)

    path = hdf5(folder, fill)
    return Refused("virtual dataset", "hint: ", paths=[path])


@row("h5: pixels in an external file")
def _(folder):
    raw = folder / "raw.bin"
    path = hdf5(folder, lambda file: file.create_dataset("frames", data=BASE, external=[(raw, 0, BASE.nbytes)]))
    return Refused("external files", "hint: ", paths=[path])


FILTERS = [
    ("blosc", hdf5plugin.Blosc(), "blosc (32001)"),
    ("blosc2", hdf5plugin.Blosc2(), "blosc2 (32026)"),
    ("bitshuffle", hdf5plugin.Bitshuffle(), "bitshuffle (32008)"),
    ("bzip2", hdf5plugin.BZip2(), "bzip2 (307)"),
    ("lz4", hdf5plugin.LZ4(), "lz4 (32004)"),
    ("zstd", hdf5plugin.Zstd(), "zstd (32015)"),
]


@rows(*[(f"h5: {name}", compression, text) for name, compression, text in FILTERS])
def _(folder, compression, text):
    # Data that does not get smaller is stored uncompressed.
    smooth = np.zeros_like(BASE)
    smooth[range(COUNT), [number % SIDE for number in range(COUNT)]] = 200
    hdf5(folder, lambda file: file.create_dataset("frames", data=smooth, compression=compression))
    return Refused(text, "gzip", "import hdf5plugin")


@rows(("h5: a bit flipped under fletcher32", {"fletcher32": True}), ("h5: a bit flipped under gzip", {"compression": "gzip"}))
def _(folder, options):
    def fill(file):
        file.create_dataset("frames", data=BASE, chunks=BASE.shape, **options)

    path = hdf5(folder, fill)
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(0)
    flip(path, chunk.byte_offset + chunk.size // 2)
    return Refused("cannot be read as HDF5", "hint: ")


@row("h5: cut")
def _(folder):
    path = hdf5(folder, lambda file: file.create_dataset("frames", data=BASE))
    path.write_bytes(path.read_bytes()[:2500])
    return Refused("it has 2500 bytes, expected", "a copy was interrupted", "hint: ")


# Types and shapes in every format; hints are applied.


def int8(frames):
    return (frames.astype(np.int16) - 128).astype(np.int8)


TYPES = [
    ("floats 0 to 1", UNIT, "type", BASE, 0),
    ("doubles 0 to 1", UNIT.astype(np.float64), "type", BASE, 0),
    ("half floats 0 to 1", UNIT.astype(np.float16), "type", BASE, 1),
    ("big-endian floats", UNIT.astype(">f4"), "type", BASE, 0),
    ("floats -1 to 1", UNIT * 2 - 1, "type", BASE, 1),
    ("floats -0.5 to 0.5", UNIT - 0.5, "type", BASE, 1),
    ("floats 0 to 255", BASE.astype(np.float32), "type", BASE, 0),
    ("floats 0 to 255 with fractions", BASE * np.float32(0.999) + np.float32(0.1), "type", BASE, 1),
    ("floats that overshoot 0 to 1", UNIT * 1.04 - 0.02, "type", BASE, 6),
    ("floats that overshoot 0 to 255", BASE * 1.02 - 2.5, "type", BASE, 4),
    ("floats less mean over deviation", (UNIT - 0.45) / 0.22, "type", BASE, 1),
    ("bool", BASE > 127, "type", (BASE > 127) * np.uint8(255), 0),
    ("uint16 of bytes", BASE.astype(np.uint16), "type", BASE, 0),
    ("uint16 of 16 bits", BASE.astype(np.uint16) * 257, "type", BASE, 0),
    ("big-endian uint16", (BASE.astype(np.uint16) * 257).astype(">u2"), "type", BASE, 0),
    ("uint16 of 12 bits", BASE.astype(np.uint16) * 16, "type", BASE, 0),
    ("uint16 of 10 bits", BASE.astype(np.uint16) * 4, "type", BASE, 0),
    ("int64 of bytes", BASE.astype(np.int64), "type", BASE, 0),
    ("int64 of 0 and 1", (BASE > 127).astype(np.int64), "type", (BASE > 127) * np.uint8(255), 0),
    ("int16 with negative values", BASE.astype(np.int16) * 200 - 25000, "type", BASE, 1),
    ("int8", int8(BASE), "type", BASE, 0),
    ("uint64 of 32 bits", BASE.astype(np.uint64) * 16843009, "type", BASE, 1),
    ("gray", BASE[..., 0], "shape", BASE[..., :1].repeat(3, -1), 0),
    ("gray with a channel", BASE[..., :1], "shape", BASE[..., :1].repeat(3, -1), 0),
    ("gray, channels first", BASE[..., :1].transpose(0, 3, 1, 2), "shape", BASE[..., :1].repeat(3, -1), 0),
    ("RGBA", np.concatenate([BASE, BASE[..., :1]], -1), "shape", BASE, 0),
    ("channels first", BASE.transpose(0, 3, 1, 2), "shape", BASE, 0),
    ("RGBA, channels first", np.concatenate([BASE, BASE[..., :1]], -1).transpose(0, 3, 1, 2), "shape", BASE, 0),
    ("channels before frames", BASE.transpose(3, 0, 1, 2), "shape", BASE, 0),
    ("frames last", BASE.transpose(1, 2, 3, 0), "shape", BASE, 0),
    ("a batch of one", BASE[None], "shape", BASE, 0),
    ("a batch of one, channels first", BASE.transpose(0, 3, 1, 2)[None], "shape", BASE, 0),
    ("flat frames", BASE.reshape(COUNT, -1), "shape", BASE, 0),
    ("flat", BASE.reshape(-1), "shape", BASE, 0),
    ("floats, channels first", UNIT.transpose(0, 3, 1, 2), "type", BASE, 0),
    ("gray floats", UNIT[..., 0], "type", BASE[..., :1].repeat(3, -1), 0),
    ("floats in a batch of one, channels first", UNIT.transpose(0, 3, 1, 2)[None], "type", BASE, 0),
]
OTHERS = [
    ("floats with NaN", np.where(BASE == 0, np.float32(np.nan), UNIT), ["NaN"]),
    ("floats, all 0.5", UNIT * 0 + 0.5, ["every value 0.5", "nothing can be learnt"]),
    ("clips", BASE.reshape(4, 6, SIDE, SIDE, 3), ["several clips", "np.save"]),
    ("clips, channels first", BASE.reshape(4, 6, SIDE, SIDE, 3).transpose(0, 1, 4, 2, 3), ["several clips", "transpose"]),
    ("no frames", BASE[:0], ["the array is empty"]),
    ("a scalar", np.uint8(3), ["not an array"]),
    ("one picture", BASE[0], ["one picture"]),
    ("not square", np.zeros((COUNT, SIDE, 2 * SIDE, 3), np.uint8), ["8x16", "must be square"]),
    ("square, of another size", np.zeros((COUNT, 16, 16, 3), np.uint8), ["16x16", "`frame_size = 16`"]),
    ("two channels", BASE[..., :2], ["two channels"]),
    ("six dimensions", BASE.reshape(2, 3, 4, SIDE, SIDE, 3), ["expected [frames, height, width, 3]"]),
    ("complex", UNIT.astype(np.complex64), ["expected uint8"]),
    ("constant", BASE * 0 + 7, ["are the same picture", "[7, 7, 7]"]),
    ("still in each window", np.repeat(BASE[:1], COUNT, 0), ["are the same picture"]),
    ("one frame too few to train", BASE[:3], ["too small"]),
]


def save(folder, form, frames):
    if form == "h5":
        return hdf5(folder, lambda file: file.create_dataset("frames", data=frames))
    path = folder / f"a.{form}"
    if form == "npy":
        np.save(path, frames)
    elif form == "npz":
        np.savez_compressed(path, frames=frames)
    return path


@rows(*[(f"{form}: {name}", form, *rest) for form in ("h5", "npy", "npz") for name, *rest in TYPES])
def _(folder, form, frames, what, gives, within):
    frames = np.ascontiguousarray(frames)
    save(folder, form, frames)
    text = {"type": "expected uint8", "shape": "expected [frames, height, width, 3]"}[what]
    return Refused(text, "hint: ", mends=frames, gives=gives, within=within)


@rows(*[(f"{form}: {name}", form, *rest) for form in ("h5", "npy", "npz") for name, *rest in OTHERS])
def _(folder, form, frames, texts):
    save(folder, form, frames)
    return Refused(*texts, "hint: ")


@rows(
    ("h5: JPEGs as lists", lambda file: file.create_dataset("frames", (COUNT,), dtype=h5py.vlen_dtype(np.uint8))),
    ("h5: text", lambda file: file.create_dataset("frames", data=["a"] * COUNT)),
    ("h5: fixed text", lambda file: file.create_dataset("frames", data=np.array([b"abc"] * COUNT))),
    ("h5: opaque", lambda file: file.create_dataset("frames", data=np.zeros(COUNT, "V192"))),
)
def _(folder, fill):
    hdf5(folder, fill)
    return Refused("expected uint8", "compressed pictures", "folder of PNGs")


@rows(
    ("h5: references", lambda file: file.create_dataset("frames", (3,), dtype=h5py.ref_dtype)),
    ("h5: an enumeration", lambda file: file.create_dataset("frames", BASE.shape, h5py.enum_dtype({"a": 1, "b": 2}, "u1"))),
    ("h5: no dataspace", lambda file: file.create_dataset("frames", data=h5py.Empty("u1"))),
)
def _(folder, fill):
    hdf5(folder, fill)
    return Refused("expected ", "hint: ")


COLOURS = np.dtype([("r", "u1"), ("g", "u1"), ("b", "u1")])


@rows(("h5: a record of colours", "h5"), ("npy: a record of colours", "npy"), ("npz: a record of colours", "npz"))
def _(folder, form):
    frames = np.zeros((COUNT, SIDE, SIDE), COLOURS)
    for place, name in enumerate(COLOURS.names):
        frames[name] = BASE[..., place]
    save(folder, form, frames)
    return Refused("expected uint8", mends=frames, gives=BASE, within=0)


# NumPy


def npy(folder, frames, version=None, name="a.npy"):
    path = folder / name
    with open(path, "wb") as file:
        np.lib.format.write_array(file, frames, version=version)
    return path


@rows(*[(f"npy: version {version[0]}", version) for version in ((1, 0), (2, 0), (3, 0))])
def _(folder, version):
    npy(folder, BASE, version)
    return Read(BASE)


@rows(("npy: Fortran order", np.save, "a.npy"), ("npz: Fortran order", lambda path, frames: np.savez(path, frames=frames), "a.npz"))
def _(folder, write, name):
    frames = base(200)
    write(folder / name, np.asfortranarray(frames))
    return Read(frames)


@row("npy: what a transposed tensor becomes")
def _(folder):
    first = np.ascontiguousarray(BASE.transpose(3, 2, 1, 0))
    np.save(folder / "a.npy", first.transpose(3, 2, 1, 0))
    return Read(BASE)


@row("npy: memory mapped")
def _(folder):
    mapped = np.lib.format.open_memmap(folder / "a.npy", "w+", np.uint8, BASE.shape)
    mapped[:] = BASE
    mapped.flush()
    return Read(BASE)


@row("npy: a view that is not contiguous")
def _(folder):
    np.save(folder / "a.npy", base(2 * COUNT)[::2, ::-1])
    return Read(base(2 * COUNT)[::2, ::-1])


@row("npy: big-endian uint8")
def _(folder):
    np.save(folder / "a.npy", BASE.astype(">u1"))
    return Read(BASE)


@row("npy: the header of Python 2")
def _(folder):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (24L, 8L, 8L, 3L), }"
    header += b" " * (117 - len(header)) + b"\n"
    (folder / "a.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + BASE.tobytes())
    return Read(BASE)


@row("npy: objects")
def _(folder):
    frames = np.empty(COUNT, object)
    for place in range(COUNT):
        frames[place] = BASE[place]
    np.save(folder / "a.npy", frames, allow_pickle=True)
    return Refused("'|O', expected uint8", "pickle", mends=frames, gives=BASE, within=0)


@row("npy: a dictionary")
def _(folder):
    np.save(folder / "a.npy", {"frames": BASE}, allow_pickle=True)
    return Refused("'|O', expected uint8", "pickle")


@rows(("npy: text", np.array(["a", "b"])), ("npy: bytes", np.array([b"a", b"b"])))
def _(folder, frames):
    np.save(folder / "a.npy", frames)
    return Refused("expected uint8", "decode")


@row("npy: times")
def _(folder):
    np.save(folder / "a.npy", np.zeros(BASE.shape, "datetime64[s]"))
    return Refused("expected uint8", "hint: ")


@row("npy: two arrays")
def _(folder):
    with open(folder / "a.npy", "wb") as file:
        np.save(file, BASE)
        np.save(file, BASE)
    return Refused("after the array of frames, another array", "hint: ")


@rows(("npy: one byte too many", 1), ("npy: a byte missing", -1), ("npy: half missing", -2000))
def _(folder, more):
    path = npy(folder, BASE)
    data = path.read_bytes()
    path.write_bytes(data + b"\0" if 0 < more else data[:more])
    return Refused("1 bytes after" if 0 < more else "a.npy", "hint: ")


@rows(
    ("npz: stored", lambda path: np.savez(path, frames=BASE)),
    ("npz: deflated", lambda path: np.savez_compressed(path, frames=BASE)),
    ("npz: frames beside others", lambda path: np.savez(path, actions=np.arange(3), frames=BASE, other=UNIT)),
    ("npz: the only array has another name", lambda path: np.savez(path, BASE)),
)
def _(folder, write):
    write(folder / "a.npz")
    return Read(BASE)


@row("npz: several arrays, none called frames")
def _(folder):
    np.savez(folder / "a.npz", BASE, UNIT)
    return Refused("no array `frames`", "`arr_0`", "`np.savez(path, frames=frames)`")


@row("npz: a comment")
def _(folder):
    np.savez(folder / "a.npz", frames=BASE)
    with zipfile.ZipFile(folder / "a.npz", "a") as archive:
        archive.comment = b"made by a camera"
    return Read(BASE)


@row("npz: written to a pipe")
def _(folder):
    class Pipe:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            return self.file.write(data)

        def flush(self):
            self.file.flush()

        def seekable(self):
            return False

    with open(folder / "a.npz", "wb") as file, zipfile.ZipFile(Pipe(file), "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("frames.npy", "w") as entry:
            np.lib.format.write_array(entry, BASE)
    return Read(BASE)


@row("npz: packed anew by macOS")
def _(folder):
    path = npy(folder, BASE)
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.write(path, "arr_0.npy")
        archive.writestr("__MACOSX/._arr_0.npy", "Mac OS X")
    return Read(BASE, paths=[folder / "a.npz"])


@rows(("npz: bzip2", zipfile.ZIP_BZIP2), ("npz: lzma", zipfile.ZIP_LZMA))
def _(folder, method):
    path = npy(folder, BASE)
    with zipfile.ZipFile(folder / "a.npz", "w", method) as archive:
        archive.write(path, "frames.npy")
    return Refused("cannot be read as npz", "library's defaults", paths=[folder / "a.npz"])


@rows(("npz: a bit flipped, stored", np.savez), ("npz: a bit flipped, deflated", np.savez_compressed))
def _(folder, write):
    path = folder / "a.npz"
    write(path, frames=BASE)
    flip(path, path.stat().st_size // 2)
    return Refused("cannot be read as npz", "hint: ")


@row("npz: bytes behind the array")
def _(folder):
    path = npy(folder, BASE)
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", path.read_bytes() + b"more")
    return Refused("4 bytes after the array", paths=[folder / "a.npz"])


@row("npz: cut")
def _(folder):
    path = folder / "a.npz"
    np.savez(path, frames=BASE)
    path.write_bytes(path.read_bytes()[:3000])
    return Refused("cannot be read as npz", "hint: ")


@rows(
    ("h5: an npy by another name", "a.h5", "an npy file", "`.npy`"),
    ("npz: an npy by another name", "a.npz", "an npy file", "`.npy`"),
)
def _(folder, name, *texts):
    npy(folder, BASE, name=name)
    return Refused(*texts)


@rows(("h5: a Git LFS pointer", "a.h5"), ("npz: a Git LFS pointer", "a.npz"), ("npy: a Git LFS pointer", "a.npy"))
def _(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4608\n")
    return Refused("Git LFS pointer", "`git lfs pull`")


@rows(("h5: a web page", "a.h5"), ("npz: a web page", "a.npz"), ("npy: a web page", "a.npy"))
def _(folder, name):
    (folder / name).write_text("\n<!DOCTYPE html>\n<html><title>404</title></html>\n")
    return Refused("a web page", "download")


@row("npz: a pickle")
def _(folder):
    import pickle

    (folder / "a.npz").write_bytes(pickle.dumps(BASE))
    return Refused("pickle, which is never loaded")


# PNG


def picture(frame):
    return PIL.Image.fromarray(frame)


def pngs(folder, names, frames=None, **options):
    """Writes pictures with these names to a folder, and returns the folder."""
    pictures = folder / "pngs"
    frames = BASE if frames is None else frames
    for name, frame in zip(names, frames, strict=False):
        path = pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(frame).save(path, **options)
    return pictures


def numbered(count=COUNT):
    return [f"f{number}.png" for number in range(count)]


def one_mode(folder, mode, **options):
    """All frames in a mode of Pillow, and the same frames converted to RGB by Pillow."""
    pictures = folder / "pngs"
    pictures.mkdir()
    rgb = []
    for number, frame in enumerate(BASE):
        made = picture(frame).convert(mode)
        path = pictures / f"f{number}.png"
        made.save(path, **options)
        rgb.append(np.asarray(PIL.Image.open(path).convert("RGBA"))[..., :3])
    return Read(np.stack(rgb), paths=[pictures])


@rows(*[(f"png: mode {mode}", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")])
def _(folder, mode):
    return one_mode(folder, mode)


@rows(
    ("png: a palette of 2 bits", "P", {"bits": 2}),
    ("png: a palette of 4 bits", "P", {"bits": 4}),
    ("png: a transparent colour", "RGB", {"transparency": (0, 0, 0)}),
    ("png: a transparent gray", "L", {"transparency": 0}),
    ("png: not compressed", "RGB", {"compress_level": 0}),
    ("png: resolution", "RGB", {"dpi": (300, 300)}),
)
def _(folder, mode, options):
    if "bits" in options:
        pictures = folder / "pngs"
        pictures.mkdir()
        rgb = []
        for number, frame in enumerate(BASE):
            made = picture(frame).quantize(1 << options["bits"])
            made.save(pictures / f"f{number}.png", **options)
            rgb.append(np.asarray(made.convert("RGB")))
        return Read(np.stack(rgb), paths=[pictures])
    return one_mode(folder, mode, **options)


@row("png: text, gamma, colour profile, orientation: the pixels as they are stored")
def _(folder):
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("Comment", "made by a camera", zip=True)
    info.add_itxt("Title", "Bild")
    info.add(b"gAMA", struct.pack(">I", 45455))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pictures = pngs(folder, numbered(), pnginfo=info, exif=exif, icc_profile=profile)
    return Read(BASE, paths=[pictures])


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def interlaced(frame):
    """An Adam7 picture, which Pillow can read but not write."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    data = b""
    for top, left, down, right in passes:
        for line in frame[top::down, left::right]:
            if line.size:
                data += b"\0" + line.tobytes()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@row("png: interlaced")
def _(folder):
    pictures = folder / "pngs"
    pictures.mkdir()
    for number, frame in enumerate(BASE):
        path = pictures / f"f{number}.png"
        path.write_bytes(interlaced(frame))
        assert np.array_equal(np.asarray(PIL.Image.open(path)), frame)
    return Read(BASE, paths=[pictures])


@row("png: the pixels in many chunks")
def _(folder):
    pictures = folder / "pngs"
    pictures.mkdir()
    for number, frame in enumerate(BASE):
        data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in frame))
        header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
        pieces = b"".join(chunk(b"IDAT", data[at : at + 7]) for at in range(0, len(data), 7))
        made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pieces + chunk(b"IEND", b"")
        (pictures / f"f{number}.png").write_bytes(made)
    return Read(BASE, paths=[pictures])


@row("png: bytes behind the end, as libpng reads it")
def _(folder):
    pictures = pngs(folder, numbered())
    for path in pictures.iterdir():
        path.write_bytes(path.read_bytes() + b"made by a camera")
    return Read(BASE, paths=[pictures])


@row("png: 16 bits")
def _(folder):
    pictures = folder / "pngs"
    pictures.mkdir()
    picture(BASE[0, ..., 0].astype(np.uint16) * 257).save(pictures / "f0.png")
    return Refused("16-bit pixels", "8 bits per channel", paths=[pictures])


@row("png: animated")
def _(folder):
    pictures = folder / "pngs"
    pictures.mkdir()
    picture(BASE[0]).save(pictures / "f.png", save_all=True, append_images=[picture(frame) for frame in BASE[1:]])
    return Refused("animated PNG of 24 frames", "ffmpeg", paths=[pictures])


@row("png: an animation of one frame")
def _(folder):
    pictures = pngs(folder, numbered(), save_all=True)
    return Read(BASE, paths=[pictures])


@rows(("png: a JPEG by another name", "JPEG", "a JPEG"), ("png: a BMP by another name", "BMP", "a BMP"), ("png: a GIF by another name", "GIF", "a GIF"))
def _(folder, form, text):
    pictures = folder / "pngs"
    pictures.mkdir()
    picture(BASE[0]).save(pictures / "f0.png", form)
    return Refused("f0.png", text, "hint: ", paths=[pictures])


@rows(("png: cut", 100, "cannot be read as PNG"), ("png: without its end", -12, "cannot be read as PNG"), ("png: empty", 0, "it is empty"))
def _(folder, end, text):
    pictures = pngs(folder, numbered())
    path = pictures / "f7.png"
    path.write_bytes(path.read_bytes()[:end])
    return Refused("f7.png", text, "hint: ", paths=[pictures])


@row("png: a bit flipped")
def _(folder):
    pictures = pngs(folder, numbered())
    flip(pictures / "f3.png", 80)
    return Refused("f3.png", "cannot be read as PNG", paths=[pictures])


@row("png: not square")
def _(folder):
    pictures = pngs(folder, numbered(), np.zeros((COUNT, SIDE, 2 * SIDE, 3), np.uint8))
    return Refused("8x16", "must be square", paths=[pictures])


@row("png: constant")
def _(folder):
    return Refused("are the same picture", paths=[pngs(folder, numbered(), BASE * 0 + 255)])


ORDERS = [
    ("numbers that are not padded", numbered()),
    ("padded numbers", [f"{number:06}.png" for number in range(COUNT)]),
    ("decimals as Python prints them", [f"{number / 4}.png" for number in range(COUNT)]),
    ("decimals as %g prints them", [f"t{number / 4:g}.png" for number in range(COUNT)]),
    ("decimals with powers", [f"{number * 1e-5}.png" for number in range(COUNT)]),
    ("decimal commas", [f"{number / 4:.2f}.png".replace(".", ",", 1) for number in range(COUNT)]),
    ("counters with a point", [f"1.{number}.png" for number in range(COUNT)]),
    ("signed", [f"{number}.png" for number in range(-12, 12)]),
    ("signed decimals", [f"x={number / 8}.png" for number in range(-12, 12)]),
    ("all negative", [f"{number}.png" for number in range(-24, 0)]),
    ("a dash before the number", [f"frame-{number}.png" for number in range(COUNT)]),
    ("an empty prefix and a dash", [f"-{number:03}.png" for number in range(COUNT)]),
    ("mixed case", [("Frame", "frame", "FRAME")[number % 3] + f"_{number}.png" for number in range(COUNT)]),
    ("mixed case of the ending", [f"f{number}" + (".png", ".PNG", ".Png")[number % 3] for number in range(COUNT)]),
    ("dates", [f"2024-{1 + number // 12:02}-{1 + number % 12:02}.png" for number in range(COUNT)]),
    ("times of day", [f"10.{number // 6}.{number % 6}.png" for number in range(COUNT)]),
    ("stamps", [f"{1699999990 + number}.{number % 10}5.png" for number in range(COUNT)]),
    ("two numbers", [f"cam2_{number}.png" for number in range(COUNT)]),
    ("numbers beyond 64 bits", [f"{10**25 + number}.png" for number in range(COUNT)]),
    ("letters beyond ASCII", [f"Größe {number}.png" for number in range(COUNT)]),
    ("brackets", [f"Screenshot ({number}).png" for number in range(COUNT)]),
]


@rows(*[(f"png: order: {name}", names) for name, names in ORDERS])
def _(folder, names):
    # Written in an order other than that of the names.
    places = np.random.default_rng(3).permutation(COUNT)
    pictures = pngs(folder, [names[place] for place in places], BASE[places])
    return Read(BASE, paths=[pictures], first=names[0], last=names[-1], missing=0)


@rows(("png: a gap", 1, range(5, 8)), ("png: two gaps", 1, [3, 15]), ("png: a gap in every fourth", 4, [7]))
def _(folder, step, without):
    kept = [place for place in range(COUNT) if place not in without]
    pictures = pngs(folder, [f"f{place * step}.png" for place in kept], BASE[kept])
    return Read(BASE[kept], paths=[pictures], missing=len(without))


@row("png: hidden files")
def _(folder):
    pictures = pngs(folder, numbered())
    for name in ("._f0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (pictures / name).write_text("no picture")
    picture(BASE[5]).save(pictures / ".thumb.png")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (pictures / name).mkdir()
        picture(BASE[5]).save(pictures / name / "f0.png")
    return Read(BASE, paths=[pictures], passed_over=[("hidden or made by the system", 8, ".DS_Store")])


@row("png: JPEGs among them")
def _(folder):
    pictures = pngs(folder, [f"f{number}.png" for number in range(0, 2 * COUNT, 2)])
    for number in range(1, 2 * COUNT, 2):
        picture(BASE[0]).save(pictures / f"f{number}.jpg")
    return Read(BASE, paths=[pictures], passed_over=[("picture, but no PNG (.jpg)", COUNT, "f1.jpg")])


@row("png: subfolders")
def _(folder):
    clips = [base(4, seed) for seed in range(12)]
    for number, clip in enumerate(clips):
        pictures = pngs(folder, [f"ep{number}/{name}" for name in numbered(4)], clip)
    return Read(np.concatenate(clips), paths=[pictures], lengths=[4] * 12, first=numbered(4)[0], last=numbered(4)[-1])


@row("png: pictures and a subfolder")
def _(folder):
    pictures = pngs(folder, numbered())
    pngs(folder, [f"more/{name}" for name in numbered()], base(seed=1))
    (pictures / "notes").mkdir()
    (pictures / "notes/read me.txt").write_text("no picture")
    passed_over = [("folder without a PNG", 1, "notes"), ("no picture", 1, "read me.txt")]
    return Read(np.concatenate([BASE, base(seed=1)]), paths=[pictures], lengths=[COUNT, COUNT], passed_over=passed_over)


@row("png: only JPEGs")
def _(folder):
    pictures = folder / "pngs"
    pictures.mkdir()
    for number in range(COUNT):
        picture(BASE[number]).save(pictures / f"f{number}.jpg")
    return Refused("no .png file", f"{COUNT} x picture, but no PNG (.jpg)", "mogrify", paths=[pictures])


@row("png: only arrays")
def _(folder):
    pictures = folder / "pngs"
    pictures.mkdir()
    np.savez(pictures / "ep0.npz", frames=BASE)
    return Refused("no .png file", "file of arrays (.npz), `ep0.npz`", "give the files themselves", paths=[pictures])


@row("png: an empty folder")
def _(folder):
    (folder / "pngs").mkdir()
    return Refused("no .png file", "it is empty", paths=[folder / "pngs"])


@row("several files of every kind")
def _(folder):
    (folder / "one").mkdir()
    paths = [save(folder, form, base(seed=seed)) for seed, form in enumerate(("h5", "npy", "npz"))]
    paths.append(pngs(folder / "one", numbered(), base(seed=3)))
    return Read(np.concatenate([base(seed=seed) for seed in range(4)]), paths=paths, lengths=[COUNT] * 4)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# Checks


class Failed(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failed(text)


class Reader:
    """The example binary."""

    def __init__(self, path):
        self.path = os.path.abspath(path)

    def read(self, folder, paths):
        """The pixels and their description, or the message of an error."""
        out = folder / "pixels.out"
        command = [self.path, str(SIDE), out, *paths]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode == 2:
            return None, None, done.stderr
        need(done.returncode == 0, f"exit {done.returncode}: {done.stderr.strip()[-300:]}")
        described = json.loads(done.stdout)
        return np.frombuffer(out.read_bytes(), np.uint8).reshape(described["shape"]), described, None


def check_read(reader, folder, paths, want):
    frames, described, error = reader.read(folder, paths)
    need(error is None, f"refused: {error}")
    need(np.array_equal(frames, want.frames), f"other pixels, shape {frames.shape}")
    found = [recording["frames"] for recording in described["recordings"]]
    lengths = want.lengths or [len(want.frames)]
    need(found == lengths, f"recordings of {found} frames, expected {lengths}")
    for key, value in ({"passed_over": [], "missing": 0} | want.described).items():
        if key == "passed_over":
            found = [(one["why"], one["count"], one["example"]) for one in described["passed_over"]]
        else:
            # A value applies to all recordings; a list has one value for each.
            found = [recording[key] for recording in described["recordings"]]
            value = value if isinstance(value, list) else [value] * len(found)
        need(found == value, f"{key} is {found}, expected {value}")


def check_refused(reader, folder, paths, want):
    frames, _, error = reader.read(folder, paths)
    need(frames is None, "was read")
    for text in want.texts:
        need(text in error, f"`{text}` is not in: {error}")
    need("panicked" not in error, error)
    if want.mends is None:
        return
    expression = re.findall(r"`([^`]*frames[^`]*)`", error.split("hint: ", 1)[1])
    need(len(expression) == 1, f"no expression in: {error}")
    mended = eval(expression[0], {"np": np, "frames": want.mends})
    np.save(folder / "mended.npy", mended)
    frames, _, error = reader.read(folder, [folder / "mended.npy"])
    need(error is None, f"`{expression[0]}` followed: {error}")
    need(frames.shape == want.gives.shape, f"`{expression[0]}` gives shape {frames.shape}")
    distance = np.abs(frames.astype(int) - want.gives.astype(int)).max()
    need(distance <= want.within, f"`{expression[0]}` gives values that are off by {distance}")


def try_row(reader, make):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        want = make(folder)
        paths = want.paths or sorted(folder.glob("a.*"))
        if isinstance(want, Read):
            check_read(reader, folder, paths, want)
        else:
            check_refused(reader, folder, paths, want)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reader", required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    reader = Reader(arguments.reader)
    for name, make in ROWS:
        if arguments.only not in name:
            continue
        try:
            try_row(reader, make)
        except Exception as error:
            kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
            fail(name, f"{kind}{error}")
        else:
            ok()
            print(f"ok: {name}")
    print(f"data files, h5py {h5py.__version__} (HDF5 {h5py.version.hdf5_version}), NumPy {np.__version__}, Pillow {PIL.__version__}")
    finish()


if __name__ == "__main__":
    main()
