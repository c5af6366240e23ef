"""Tests of tools/libtorch.py with tiny wheels and the real pip. No network."""

import base64
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
import zipfile
from collections import namedtuple
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
sys.dont_write_bytecode = True

import libtorch  # noqa: E402

CPU_LIBRARY = b"\x7fELF the real work\n" * 1000
HEADER = b"#pragma once\n"
TORCH = {
    "torch/version.py": b"__version__ = '2.13.0+cu130'\n",
    "torch/include/torch/extension.h": HEADER,
    "torch/lib/libtorch_cpu.so": CPU_LIBRARY,
    "torch/lib/libc10.so": b"c10",
    "torch/lib/libgomp.so.1": b"gomp",
    "torch/lib/libtorch.so": b"drags cuda in",
    "torch/lib/libtorch_cuda.so": b"cuda",
    "torch/lib/libtorch_cuda_linalg.so": b"cuda",
    "torch/lib/libc10_cuda.so": b"cuda",
    "torch/lib/libtorch_python.so": b"python",
    "torch/nn/functional.py": b"python",
}
CUDART = {"nvidia/cu13/lib/libcudart.so.13": b"cudart", "nvidia/cu13/lib/libcudart_static.a": b"static"}
CUPTI = {"nvidia/cu13/lib/libcupti.so.13": b"cupti", "nvidia/cu13/include/cupti.h": HEADER}
CPU_TREE = {
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
    "tinygate-manifest.json",
    "torch/build-version",
    "torch/include/torch/extension.h",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "torch/lib/libtorch.so",
    "torch/lib/libtorch_cpu.so",
}


def write_wheel(folder, project, version, files, tag="py3-none-any", requires=(), lie_about=None):
    """Writes a wheel that pip accepts. RECORD has a wrong hash for `lie_about`."""
    info = "%s-%s.dist-info" % (project.replace("-", "_"), version)
    files = dict(files)
    lines = ["Metadata-Version: 2.1", "Name: " + project, "Version: " + version]
    lines += ["Requires-Dist: " + one for one in requires]
    files[info + "/METADATA"] = ("\n".join(lines) + "\n").encode()
    files[info + "/WHEEL"] = ("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: %s\n" % tag).encode()
    record = []
    for name, data in files.items():
        digest = hashlib.sha256(b"other" if name == lie_about else data).digest()
        text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        record.append("%s,sha256=%s,%d" % (name, text, len(data)))
    record.append(info + "/RECORD,,")
    path = Path(folder) / ("%s-%s-%s.whl" % (project.replace("-", "_"), version, tag))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(info + "/RECORD", "\n".join(record) + "\n")
    return path


class Setup(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="tinygate-setup-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.index = self.folder / "index"
        self.index.mkdir()
        self.cache = self.folder / "cache"
        self.tree = self.cache / "libtorch-2.13.0-cpu"
        strange = ("PIP_", "LIBTORCH", "TINYGATE_", "VIRTUAL_ENV")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        self.env.update(TINYGATE_CACHE=str(self.cache), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.index), PIP_CONFIG_FILE=os.devnull)
        write_wheel(self.index, "torch", "2.13.0", TORCH)
        write_wheel(self.index, "nvidia-cuda-runtime", "13.0.96", CUDART)
        write_wheel(self.index, "nvidia-cuda-cupti", "13.0.85", CUPTI)
        self.pip_runs = []
        real_watched = libtorch.watched

        def counted(command, *rest):
            self.pip_runs.append(command)
            return real_watched(command, *rest)

        for name, fake in (
            ("watched", counted),
            # The fake libraries are not shared objects, and wheels without a platform fit every machine.
            ("check_loads", lambda tree: None),
            ("check_platform", lambda variant: "linux_x86_64"),
        ):
            patch = mock.patch.object(libtorch, name, fake)
            patch.start()
            self.addCleanup(patch.stop)

    def run_script(self, *arguments):
        """Returns exit code, standard output and standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = libtorch.main(list(arguments), self.env)
        return code, out.getvalue(), err.getvalue()

    def sets_up(self, *arguments):
        code, out, err = self.run_script(*arguments)
        self.assertEqual((code, out), (0, "%s\n" % (self.tree / "torch")), err)
        self.assertEqual(self.files(), CPU_TREE)
        self.assertEqual((self.tree / "torch/lib/libtorch_cpu.so").read_bytes(), CPU_LIBRARY)
        return err

    def fails(self, *words):
        code, out, err = self.run_script()
        self.assertEqual((code, out), (2, ""), err)
        self.assertRegex(err, r"error: .*\nhint: .")
        for word in words:
            self.assertIn(word, err)
        self.assertEqual(list(self.cache.glob("libtorch-*.partial")), [])
        self.assertEqual(list(self.cache.glob("wheels/partial-*")), [])
        return err

    def files(self):
        return {str(Path(root, name).relative_to(self.tree)) for root, _, names in os.walk(self.tree) for name in names}


class Cache(Setup):
    def test_an_empty_cache_is_filled_and_a_second_run_does_nothing(self):
        err = self.sets_up()
        self.assertIn("): missing; downloading", err)
        self.assertEqual(os.readlink(self.tree / "torch/lib/libtorch.so"), "libtorch_cpu.so")
        self.assertEqual((self.tree / "torch/build-version").read_text(), "2.13.0+cu130\n")
        self.assertFalse((self.cache / "wheels").exists())
        self.assertEqual(self.sets_up(), "")
        self.assertEqual(len(self.pip_runs), 1)

    def test_damage_is_detected_reported_and_repaired(self):
        library = self.tree / "torch/lib/libtorch_cpu.so"
        manifest = self.tree / libtorch.MANIFEST
        rows = [
            ("a file is missing", (self.tree / "torch/lib/libc10.so").unlink, [], "`torch/lib/libc10.so` is missing"),
            ("a file is cut short", lambda: os.truncate(library, 10), [], "has 10 bytes instead of"),
            ("the link is missing", (self.tree / "torch/lib/libtorch.so").unlink, [], "the link"),
            ("no manifest: half unpacked by hand", manifest.unlink, [], "no manifest"),
            ("the manifest is cut short", lambda: os.truncate(manifest, 50), [], "cannot be read"),
            ("the manifest names nothing", lambda: self.edit_manifest(files=[]), [], "lists no files"),
            ("the manifest is of another version", lambda: self.edit_manifest(version="2.12.0"), [], "another version"),
            ("a byte differs, seen with --verify", lambda: self.flip(library), ["--verify"], "differs from the wheel"),
        ]
        # Use kept wheels instead of downloads, which take pip a second each.
        self.env["TINYGATE_KEEP_WHEELS"] = "1"
        self.sets_up()
        for name, harm, arguments, reason in rows:
            with self.subTest(name):
                harm()
                self.assertIn(reason, self.sets_up(*arguments))
                self.assertEqual(self.sets_up("--verify"), "")

    def test_leftovers_of_a_killed_run_are_removed(self):
        for rest in ("libtorch-2.13.0-cpu.partial/torch/lib", "libtorch-2.13.0-cpu.old/torch", "wheels/partial-1/tmp"):
            (self.cache / rest).mkdir(parents=True)
        self.sets_up()
        self.assertEqual({entry.name for entry in self.cache.iterdir()}, {"CACHEDIR.TAG", "libtorch.lock", "libtorch-2.13.0-cpu"})

    def test_two_concurrent_processes_download_once(self):
        with contextlib.redirect_stderr(io.StringIO()):
            results = []
            runs = [threading.Thread(target=lambda: results.append(libtorch.find(self.env))) for _ in range(2)]
            for run in runs:
                run.start()
            for run in runs:
                run.join()
        self.assertEqual(results, [self.tree / "torch"] * 2)
        self.assertEqual(len(self.pip_runs), 1)

    def test_a_waiting_process_says_so(self):
        self.cache.mkdir()
        path = self.cache / "lock"
        said = []
        with path.open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)

            def hear(text):
                said.append(text)
                fcntl.flock(held, fcntl.LOCK_UN)

            with mock.patch.object(libtorch, "say", hear), libtorch.locked(path, "libtorch"):
                pass
        self.assertEqual(said, ["another process is setting up libtorch; waiting for it"])

    def test_a_folder_with_other_content_gets_no_cache_tag(self):
        self.cache.mkdir()
        (self.cache / "thesis.txt").write_text("years of work")
        self.sets_up()
        self.assertFalse((self.cache / "CACHEDIR.TAG").exists())

    def edit_manifest(self, **changes):
        path = self.tree / libtorch.MANIFEST
        path.write_text(json.dumps(dict(json.loads(path.read_text()), **changes)))

    @staticmethod
    def flip(path):
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)


class Wheels(Setup):
    def test_kept_wheels_are_reused(self):
        self.env["TINYGATE_KEEP_WHEELS"] = "1"
        self.sets_up()
        self.assertEqual(len(list((self.cache / "wheels").glob("*.whl"))), 3)
        shutil.rmtree(self.tree)
        self.sets_up()
        self.assertEqual(len(self.pip_runs), 1)

    def test_an_incomplete_wheel_is_downloaded_again(self):
        store = self.cache / "wheels"
        for name, harm in (
            ("cut short", lambda wheel: os.truncate(wheel, wheel.stat().st_size // 2)),
            ("a byte differs inside", self.spoil),
        ):
            with self.subTest(name):
                shutil.rmtree(self.cache, ignore_errors=True)
                store.mkdir(parents=True)
                for wheel in self.index.glob("*.whl"):
                    shutil.copy(wheel, store)
                harm(next(store.glob("torch-*.whl")))
                self.pip_runs.clear()
                self.sets_up()
                self.assertEqual(len(self.pip_runs), 1)

    def test_a_wheel_that_is_damaged_twice_is_rejected(self):
        write_wheel(self.index, "torch", "2.13.0", TORCH, lie_about="torch/lib/libtorch_cpu.so")
        self.fails("`torch/lib/libtorch_cpu.so` does not have the hash of its RECORD", "twice")
        self.assertFalse(self.tree.exists())
        self.assertEqual(len(self.pip_runs), 2)

    def test_a_path_out_of_the_wheel_is_rejected(self):
        write_wheel(self.index, "torch", "2.13.0", dict(TORCH, **{"torch/lib/../../../outside": b"x"}))
        self.fails("leads out of the archive")
        self.assertFalse((self.cache / "outside").exists())

    def test_a_wheel_for_another_python_works_too(self):
        # Simulate a Python without a wheel by a wheel for another kind of machine.
        other = "aarch64" if os.uname().machine == "x86_64" else "x86_64"
        next(self.index.glob("torch-*.whl")).unlink()
        write_wheel(self.index, "torch", "2.13.0", TORCH, tag="cp311-cp311-manylinux_2_28_" + other)
        with mock.patch.object(libtorch, "check_platform", lambda variant: "linux_" + other):
            self.assertIn("pip finds no wheel for Python", self.sets_up())
        self.assertEqual(len(self.pip_runs), 2)

    def test_with_cuda_everything_is_kept_including_the_requirements_of_torch(self):
        requires = ["nvidia-cudnn-cu13==9.20.0; platform_system == 'Linux'", "triton==3.7.1; platform_system == 'Linux'", "jinja2"]
        write_wheel(self.index, "torch", "2.13.0", TORCH, requires=requires)
        write_wheel(self.index, "nvidia-cudnn-cu13", "9.20.0", {"nvidia/cudnn/lib/libcudnn.so.9": b"cudnn"})
        self.env["TINYGATE_CUDA"] = "1"
        self.tree = self.cache / "libtorch-2.13.0-cuda"
        with mock.patch.object(libtorch, "NEEDED_MB", {"cuda": 1}):
            code, out, err = self.run_script()
        self.assertEqual((code, out), (0, "%s\n" % (self.tree / "torch")), err)
        self.assertLessEqual({"torch/lib/libtorch_cuda.so", "nvidia/cudnn/lib/libcudnn.so.9"}, self.files())
        self.assertFalse((self.tree / "torch/lib/libtorch.so").is_symlink())
        self.assertNotIn("torch/nn/functional.py", self.files())

    @staticmethod
    def spoil(wheel):
        """Flips a byte of the packed libtorch_cpu.so; the archive's directory stays intact."""
        with zipfile.ZipFile(wheel) as archive:
            offset = archive.getinfo("torch/lib/libtorch_cpu.so").header_offset
        data = bytearray(wheel.read_bytes())
        data[offset + 30 + len("torch/lib/libtorch_cpu.so") + 20] ^= 0xFF
        wheel.write_bytes(data)


class Errors(Setup):
    def test_without_pip_the_hint_says_what_to_install(self):
        bare = self.folder / "bare"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
        with mock.patch.object(sys, "executable", str(bare / "bin/python")):
            self.fails("pip` does not work", "apt install python3-pip")

    def test_an_old_pip_is_an_error(self):
        old = self.folder / "old-python"
        old.write_text("#!/bin/sh\necho 'pip 20.0.2 from /usr/lib (python 3.8)'\n")
        old.chmod(0o755)
        with mock.patch.object(sys, "executable", str(old)):
            self.fails("pip 20.0 is too old", "install --upgrade pip")

    def test_too_little_space_is_an_error_that_says_how_much_is_needed(self):
        usage = namedtuple("usage", "total used free")
        with mock.patch.object(libtorch.shutil, "disk_usage", lambda folder: usage(2 * 10**9, 10**9, 700 * 10**6)):
            self.fails("has 700 MB free", "about 1300 MB", "TINYGATE_CACHE")
        self.assertEqual(self.pip_runs, [])

    def test_a_disk_that_fills_while_unpacking_leaves_no_incomplete_tree(self):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch.object(libtorch, "write_version", side_effect=full):
            self.fails("is full", "free some space")
        self.assertFalse(self.tree.exists())
        self.sets_up()

    def test_a_failed_repair_keeps_the_old_tree_but_does_not_use_it(self):
        self.sets_up()
        (self.tree / "torch/lib/libc10.so").unlink()
        next(self.index.glob("torch-*.whl")).unlink()
        self.fails("No matching distribution")
        self.assertIn("`torch/lib/libc10.so` is missing", self.fails("No matching distribution"))

    def test_a_cache_that_cannot_be_created_is_an_error(self):
        self.cache.write_text("a file")
        code, out, err = self.run_script()
        self.assertEqual((code, out), (2, ""))
        self.assertIn("set TINYGATE_CACHE to a writable folder", err)

    def test_without_a_network_there_is_an_error_after_one_attempt(self):
        # Nothing listens on port 9 of this machine.
        self.env.update(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1", no_proxy="*")
        del self.env["PIP_NO_INDEX"], self.env["PIP_FIND_LINKS"]
        self.fails("cannot reach its package index", "check the network")
        self.assertEqual(len(self.pip_runs), 1)

    def test_a_wheel_of_another_version_is_rejected(self):
        write_wheel(self.index, "torch", "2.13.0", dict(TORCH, **{"torch/version.py": b"__version__ = '2.12.1'\n"}))
        self.fails("`2.12.1`, not `2.13.0`")


class Given(Setup):
    def setUp(self):
        super().setUp()
        self.own = self.folder / "own"
        (self.own / "lib").mkdir(parents=True)
        (self.own / "lib/libtorch_cpu.so").write_bytes(b"x")
        self.env["LIBTORCH"] = str(self.own)

    def accepts(self, folder):
        code, out, err = self.run_script()
        self.assertEqual((code, out), (0, "%s\n" % folder), err)

    def test_the_right_version_is_accepted_wherever_it_is_found(self):
        header = self.own / "include/torch/headeronly/version.h"
        header.parent.mkdir(parents=True)
        for name, path, text in (
            ("build-version", self.own / "build-version", "2.13.0+cpu\n"),
            ("version.py", self.own / "version.py", "__version__ = '2.13.0+cu130'\n"),
            ("version.h", header, "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 0\n"),
        ):
            with self.subTest(name):
                path.write_text(text)
                self.accepts(self.own)
                path.unlink()
        self.assertFalse(self.cache.exists())

    def test_another_version_is_rejected_with_both_versions(self):
        for found in ("1.13.1", "2.13.1+cpu", "2.1"):
            with self.subTest(found):
                (self.own / "build-version").write_text(found + "\n")
                self.fails("`%s`" % found, "`2.13.0`", "unset LIBTORCH")

    def test_the_check_can_be_switched_off_as_in_torch_sys(self):
        (self.own / "build-version").write_text("2.12.0\n")
        self.env["LIBTORCH_BYPASS_VERSION_CHECK"] = "1"
        self.accepts(self.own)

    def test_a_folder_without_a_version_is_rejected(self):
        self.fails("has no version")

    def test_a_folder_without_libtorch_is_rejected(self):
        self.env["LIBTORCH"] = str(self.folder / "nothing")
        self.fails("contains no libtorch_cpu")

    def test_libtorch_takes_precedence_over_pytorch(self):
        (self.own / "build-version").write_text("2.13.0\n")
        self.env["LIBTORCH_USE_PYTORCH"] = "1"
        self.accepts(self.own)

    def test_pytorch_is_accepted_or_rejected_by_its_version(self):
        del self.env["LIBTORCH"]
        site = self.folder / "site"
        self.env.update(LIBTORCH_USE_PYTORCH="1", PYTHONPATH=str(site), PATH="%s:%s" % (self.python_on_path(), self.env["PATH"]))
        self.fails("has no torch", "pip install torch==2.13.0")
        (site / "torch").mkdir(parents=True)
        (site / "torch/__init__.py").touch()
        (site / "torch/version.py").write_text("__version__ = '2.8.0+cu128'\n")
        self.fails("`2.8.0+cu128`", "`2.13.0`")
        (site / "torch/version.py").write_text("__version__ = '2.13.0+cu130'\n")
        self.accepts(site / "torch")
        self.assertEqual(self.pip_runs, [])

    def python_on_path(self):
        """A folder with a `python3` that has no packages, whatever this machine has installed."""
        bare = self.folder / "bare"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
        return bare / "bin"


class Script(unittest.TestCase):
    def test_the_environment_sets_the_cache_folder(self):
        for name, env, want in (
            ("its own variable first", {"TINYGATE_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
            ("then XDG's", {"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/tinygate"),
            ("then home", {"HOME": "/c"}, "/c/.cache/tinygate"),
            ("an empty variable counts as unset", {"TINYGATE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/tinygate"),
        ):
            with self.subTest(name):
                script = [sys.executable, str(ROOT / "tools/libtorch.py"), "--print-cache"]
                answer = subprocess.run(script, env=env, stdout=subprocess.PIPE, text=True, check=True)
                self.assertEqual(answer.stdout, want + "\n")

    def test_progress_without_a_terminal_is_plain_lines(self):
        said = []
        with mock.patch.object(libtorch, "say", said.append), mock.patch.object(sys, "stderr", io.StringIO()):
            progress = libtorch.Progress(total_mb=500)
            for mb in (1, 20, 60, 70, 120, 499):
                progress.show(mb * libtorch.MB)
        self.assertEqual([line.split(",")[0].strip() for line in said], ["60 of about 500 MB (12 %)", "120 of about 500 MB (24 %)", "499 of about 500 MB (99 %)"])

    def test_platforms_without_wheels_are_errors(self):
        for system, machine, libc, variant, words in (
            ("Windows", "AMD64", ("", ""), "cpu", "Windows on AMD64"),
            ("Darwin", "x86_64", ("", ""), "cpu", "Darwin on x86_64"),
            ("Darwin", "arm64", ("", ""), "cuda", "CUDA wheels exist for Linux only"),
            ("Linux", "riscv64", ("glibc", "2.39"), "cpu", "Linux on riscv64"),
            ("Linux", "x86_64", ("", "1.2"), "cpu", "other than glibc"),
            ("Linux", "x86_64", ("glibc", "2.27"), "cpu", "needs 2.28 or newer"),
        ):
            with self.subTest(words), mock.patch.multiple(
                libtorch.platform, system=lambda: system, machine=lambda: machine, libc_ver=lambda: libc
            ), self.assertRaises(libtorch.SetupError) as caught:
                libtorch.check_platform(variant)
            self.assertIn(words, caught.exception.problem)
            self.assertIn("LIBTORCH", caught.exception.hint)


if __name__ == "__main__":
    unittest.main()
