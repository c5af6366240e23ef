#!/usr/bin/env python3
"""Finds or downloads a libtorch of the version that the Rust bindings need, and prints its folder.

Sources, in this order:
  1. LIBTORCH               a folder with lib/ and include/, whose version is checked
  2. LIBTORCH_USE_PYTORCH   the PyTorch of this environment's Python, whose version is checked
  3. the cache              downloaded with pip if missing, damaged or incomplete

The cache is $TINYGATE_CACHE, else $XDG_CACHE_HOME/tinygate, else ~/.cache/tinygate. A tree in it is complete if and only
if it has a manifest and every file has the size in the manifest: the manifest is written last, and the finished tree is
renamed into place. One process at a time downloads; others wait for it.

Prints only the folder on standard output. Exits with 0, or with 2 and an error with a hint.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import errno
import fcntl
import fnmatch
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

VERSION = "2.13.0"
MANIFEST = "tinygate-manifest.json"
MANIFEST_FORMAT = 1
CACHE_TAG = "CACHEDIR.TAG"
CACHE_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache made by tinygate; `make clean-cache` removes it.\n"
MB = 1_000_000

# libtorch_cpu.so is linked against these two, even if no GPU is used.
CUDA_RUNTIME = ["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"]
CUDA_RUNTIME_FILES = ["nvidia/*/lib/libcudart.so.*", "nvidia/*/lib/libcupti.so.*"]

# Left out of a CPU tree. torch-sys links CUDA if it finds libtorch_cuda.so. The wheel's libtorch.so depends on CUDA, so it
# is replaced by a link to libtorch_cpu.so.
CUDA_ONLY = [
    "torch/lib/libtorch_cuda*.so",
    "torch/lib/libc10_cuda.so",
    "torch/lib/libtorch_nvshmem.so",
    "torch/lib/libcaffe2_nvrtc.so",
    "torch/lib/libtorch_python.*",
    "torch/lib/libtorch.so",
]

# Approximate size of the wheels, and peak disk usage: pip temporarily stores a wheel twice.
DOWNLOAD_MB = {"cpu": 540, "cuda": 2700}
NEEDED_MB = {"cpu": 1300, "cuda": 10000}

# The C++ in the wheels does not depend on the Python version they are tagged for, so any of them works.
ANY_PYTHON = "3.11"
GLIBC = (2, 28)
OLDEST_PIP = (20, 3)  # the first that supports the tag manylinux_2_28

NETWORK_SIGNS = re.compile(
    r"Retrying \(Retry|NewConnectionError|ConnectionError|Connection (?:refused|reset|aborted|broken)|name resolution"
    r"|Name or service not known|ReadTimeout|IncompleteRead|ProxyError|SSLError|Max retries exceeded|timed out",
    re.IGNORECASE,
)


class SetupError(Exception):
    """A problem in one sentence, and a hint."""

    def __init__(self, problem: str, hint: str):
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class Damaged(Exception):
    """A wheel or a tree is damaged and can be downloaded again."""


class Entry(NamedTuple):
    """One file of the tree: path inside it, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


def main(argv: Optional[List[str]] = None, env: Optional[Mapping[str, str]] = None) -> int:
    env = os.environ if env is None else env
    options = argparse.ArgumentParser(description="Finds or downloads libtorch %s and prints its folder." % VERSION)
    options.add_argument("--cuda", action="store_true", help="keep the CUDA libraries (Linux; untested); also TINYGATE_CUDA=1")
    options.add_argument("--verify", action="store_true", help="check the hash of every cached file, not only its size")
    options.add_argument("--print-cache", action="store_true", help="print the cache folder and do nothing else")
    chosen = options.parse_args(argv)
    try:
        if chosen.print_cache:
            print(cache_folder(env))
            return 0
        variant = "cuda" if chosen.cuda or truthy(env, "TINYGATE_CUDA") else "cpu"
        print(find(env, variant, chosen.verify))
        return 0
    except SetupError as error:
        say("error: %s\nhint: %s" % (error.problem, error.hint))
        return 2
    except KeyboardInterrupt:
        say("interrupted; incomplete files will not be used")
        return 130


def find(env: Mapping[str, str], variant: str = "cpu", verify: bool = False) -> Path:
    """The folder of a libtorch of the right version, downloaded if necessary."""
    if env.get("LIBTORCH"):
        return check_given(env)
    if truthy(env, "LIBTORCH_USE_PYTORCH"):
        return check_pytorch(env)
    return cached(env, variant, verify)


def cache_folder(env: Mapping[str, str]) -> Path:
    home = env.get("XDG_CACHE_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".cache")
    chosen = env.get("TINYGATE_CACHE") or os.path.join(home, "tinygate")
    return Path(os.path.abspath(os.path.expanduser(chosen)))


def truthy(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() not in ("", "0", "false", "no")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- a libtorch given by the user


def check_given(env: Mapping[str, str]) -> Path:
    folder = Path(os.path.abspath(env["LIBTORCH"]))
    lib = Path(os.path.abspath(env.get("LIBTORCH_LIB") or str(folder))) / "lib"
    way_out = "set LIBTORCH to the folder that contains lib/ and include/, or unset it to download libtorch"
    if not any((lib / name).exists() for name in ("libtorch_cpu.so", "libtorch_cpu.dylib")):
        raise SetupError("LIBTORCH is `%s`, but `%s` contains no libtorch_cpu" % (folder, lib), way_out)
    check_version(folder, "LIBTORCH (`%s`)" % folder, "unset LIBTORCH to download %s, or set it to a folder with %s" % (VERSION, VERSION), env)
    return folder


def check_pytorch(env: Mapping[str, str]) -> Path:
    # Choose the interpreter as the build script of torch-sys does.
    python = "python" if env.get("VIRTUAL_ENV") else "python3"
    code = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    instead = "install it (`%s -m pip install torch==%s`), or unset LIBTORCH_USE_PYTORCH to download libtorch" % (python, VERSION)
    try:
        answer = subprocess.run([python, "-c", code], env=dict(env), stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError("LIBTORCH_USE_PYTORCH is set, but `%s` cannot report its torch: %s" % (python, error), instead)
    folder = answer.stdout.strip()
    if not folder:
        raise SetupError("LIBTORCH_USE_PYTORCH is set, but `%s` has no torch" % python, instead)
    check_version(Path(folder), "the torch of `%s` (`%s`)" % (python, folder), instead, env)
    return Path(folder)


def check_version(folder: Path, what: str, hint: str, env: Mapping[str, str]) -> None:
    found = version_of(folder)
    if found is None:
        raise SetupError("%s has no version (no build-version, version.py or version.h)" % what, hint)
    if found.split("+")[0] == VERSION:
        return
    if "LIBTORCH_BYPASS_VERSION_CHECK" in env:
        say("warning: %s is version %s, not %s; accepted because of LIBTORCH_BYPASS_VERSION_CHECK" % (what, found, VERSION))
        return
    raise SetupError("%s is version `%s`, but the Rust bindings (tch) need `%s`" % (what, found, VERSION), hint)


def version_of(folder: Path) -> Optional[str]:
    """The version of an unpacked libtorch or of an installed torch package."""
    with contextlib.suppress(OSError):
        return (folder / "build-version").read_text().strip()
    with contextlib.suppress(OSError):
        found = version_in_python((folder / "version.py").read_text())
        if found:
            return found
    for header in ("torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"):
        with contextlib.suppress(OSError):
            text = (folder / "include" / header).read_text()
            parts = [re.search(r"define\s+TORCH_VERSION_%s\s+(\d+)" % part, text) for part in ("MAJOR", "MINOR", "PATCH")]
            numbers = [part.group(1) for part in parts if part]
            if len(numbers) == 3:
                return ".".join(numbers)
    return None


def version_in_python(text: str) -> Optional[str]:
    found = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return found.group(1) if found else None


# ---- the cache


def cached(env: Mapping[str, str], variant: str, verify: bool) -> Path:
    cache = cache_folder(env)
    tree = cache / ("libtorch-%s-%s" % (VERSION, variant))
    if damage(tree, verify) is None:
        return tree / "torch"
    system = check_platform(variant)
    try:
        make_cache(cache)
        with locked(cache / "libtorch.lock", "libtorch"):
            # Another process may have downloaded it in the meantime.
            problem = damage(tree, verify)
            if problem is None:
                return tree / "torch"
            say("libtorch %s (%s): %s; downloading it into %s" % (VERSION, variant, problem, cache))
            fetch(env, cache, tree, variant, system)
    except OSError as error:
        raise from_os_error(error, cache)
    return tree / "torch"


def make_cache(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    tag = cache / CACHE_TAG
    # A folder with other content gets no tag, so that `make clean-cache` never treats it as ours.
    if not tag.exists() and all(entry.name in ("target", "wheels", "pip", "interop-venv") or entry.name.startswith("libtorch") for entry in cache.iterdir()):
        tag.write_text(CACHE_TAG_TEXT)


def damage(tree: Path, verify: bool = False) -> Optional[str]:
    """Why the tree cannot be used, or None. Compares the sizes of all files, and with `verify` their hashes."""
    if not tree.exists():
        return "missing"
    try:
        manifest = json.loads((tree / MANIFEST).read_text())
        if manifest["format"] != MANIFEST_FORMAT or manifest["version"] != VERSION:
            return "created by another version of this script"
        entries = [Entry(*entry) for entry in manifest["files"]]
        links = dict(manifest["links"])
    except FileNotFoundError:
        return "the tree has no manifest (the set-up was interrupted)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return "the manifest cannot be read (%s)" % error
    if not entries:
        return "the manifest lists no files"
    for entry in entries:
        path = tree / entry.path
        try:
            size = path.lstat().st_size
        except OSError:
            return "`%s` is missing" % entry.path
        if size != entry.size:
            return "`%s` has %d bytes instead of %d" % (entry.path, size, entry.size)
        if verify and hash_of(path) != entry.sha256:
            return "`%s` differs from the wheel" % entry.path
    for name, target in links.items():
        path = tree / name
        if not path.is_symlink() or os.readlink(path) != target:
            return "the link `%s` is missing" % name
    return None


def hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock file. The kernel releases the lock when the process ends."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is setting up %s; waiting for it" % what)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(env: Mapping[str, str], cache: Path, tree: Path, variant: str, system: str) -> None:
    """Downloads, unpacks into a temporary folder, and renames it. The caller holds the lock."""
    for rest in list(cache.glob("libtorch-*.partial")) + list(cache.glob("libtorch-*.old")):
        remove(rest)
    partial = Path(str(tree) + ".partial")
    store = cache / "wheels"
    check_space(cache, NEEDED_MB[variant])
    try:
        wheels = obtain(env, store, variant, system)
        try:
            unpack(wheels, partial, variant)
        except Damaged as error:
            say("%s; downloading again" % error)
            remove(partial)
            for wheel in wheels:
                remove(wheel)
            wheels = obtain(env, store, variant, system)
            unpack(wheels, partial, variant)
        check_loads(partial)
        replace(partial, tree)
    except Damaged as error:
        raise SetupError("%s, twice" % error, "something between the package index and this machine modifies files; see `python3 -m pip config list`")
    finally:
        remove(partial)
    if not truthy(env, "TINYGATE_KEEP_WHEELS"):
        for wheel in wheels:
            remove(wheel)
        with contextlib.suppress(OSError):
            store.rmdir()
    say("libtorch %s is in %s" % (VERSION, tree / "torch"))


def replace(partial: Path, tree: Path) -> None:
    old = Path(str(tree) + ".old")
    if tree.exists():
        os.rename(tree, old)
    os.rename(partial, tree)
    remove(old)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


# ---- requirements of this machine


def check_platform(variant: str) -> str:
    """The platform of this machine's wheels: `linux_x86_64`, `linux_aarch64` or `macos_arm64`."""
    system, machine = platform.system(), platform.machine()
    own = "install libtorch %s yourself and set LIBTORCH to its folder" % VERSION
    if system == "Linux" and machine in ("x86_64", "aarch64"):
        kind, number = platform.libc_ver()
        if kind != "glibc":
            raise SetupError("there are no libtorch wheels for a C library other than glibc (found `%s`)" % (kind or "unknown"), own)
        if tuple(int(part) for part in number.split(".")[:2]) < GLIBC:
            raise SetupError("glibc is %s, but libtorch %s needs %d.%d or newer" % ((number, VERSION) + GLIBC), "use a newer system, or " + own)
        return "linux_" + machine
    if variant == "cuda":
        raise SetupError("CUDA wheels exist for Linux only; this is %s on %s" % (system, machine), own)
    if system == "Darwin" and machine == "arm64":
        return "macos_arm64"
    raise SetupError("there are no libtorch wheels for %s on %s" % (system, machine), own)


def check_space(folder: Path, needed_mb: int) -> None:
    free = shutil.disk_usage(folder).free // MB
    if free < needed_mb:
        raise SetupError(
            "`%s` has %d MB free, but the set-up needs about %d MB" % (folder, free, needed_mb),
            "free some space, or set TINYGATE_CACHE to a folder on a larger disk",
        )


def from_os_error(error: OSError, cache: Path) -> SetupError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError("the disk of `%s` is full" % cache, "free some space, or set TINYGATE_CACHE to a folder on a larger disk")
    return SetupError("the cache `%s` cannot be used: %s" % (cache, error), "set TINYGATE_CACHE to a writable folder")


def check_pip() -> None:
    name = os.path.basename(sys.executable)
    answer = subprocess.run([sys.executable, "-m", "pip", "--version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = re.match(r"pip (\d+)\.(\d+)", answer.stdout)
    if answer.returncode != 0 or not found:
        raise SetupError(
            "`%s -m pip` does not work, but pip is needed to download libtorch" % name,
            "install pip (Debian, Ubuntu: `apt install python3-pip`; Fedora: `dnf install python3-pip`; else `%s -m ensurepip`), "
            "or set LIBTORCH to a libtorch %s" % (name, VERSION),
        )
    if (int(found.group(1)), int(found.group(2))) < OLDEST_PIP:
        raise SetupError("pip %s.%s is too old for current wheels" % found.groups(), "`%s -m pip install --upgrade pip`" % name)


def check_loads(tree: Path) -> None:
    """Loads libtorch once, so that a missing library is reported here and not by the linker."""
    library = next((p for p in (tree / "torch/lib/libtorch_cpu.so", tree / "torch/lib/libtorch_cpu.dylib") if p.exists()), None)
    if library is None:
        raise SetupError("the torch wheel contains no libtorch_cpu", "set LIBTORCH to a libtorch %s" % VERSION)
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    answer = subprocess.run([sys.executable, "-c", code, str(library)], stderr=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["exit code %d" % answer.returncode])[-1]
        raise SetupError("libtorch was unpacked but cannot be loaded: %s" % last, "install the missing library, or set LIBTORCH to a libtorch %s" % VERSION)


# ---- download


def obtain(env: Mapping[str, str], store: Path, variant: str, system: str) -> List[Path]:
    """The wheels that are needed: from the store, or else downloaded with pip."""
    wanted = ["torch==" + VERSION]
    if system.startswith("linux") and variant == "cpu":
        wanted += CUDA_RUNTIME
    wheels = download(env, store, wanted, system, DOWNLOAD_MB[variant], with_dependencies=False)
    if variant == "cuda":
        wheels += download(env, store, cuda_requirements(wheels[0]), system, DOWNLOAD_MB[variant], with_dependencies=True)
    return wheels


def cuda_requirements(torch_wheel: Path) -> List[str]:
    """The CUDA packages that the torch wheel requires, with versions."""
    with zipfile.ZipFile(torch_wheel) as archive:
        metadata = archive.read(dist_info(archive) + "METADATA").decode()
    found = re.findall(r"^Requires-Dist: ((?:nvidia-|cuda-toolkit)[^;\n]*)", metadata, re.MULTILINE)
    return [requirement.strip() for requirement in found]


def download(env: Mapping[str, str], store: Path, wanted: List[str], system: str, total_mb: int, with_dependencies: bool) -> List[Path]:
    store.mkdir(parents=True, exist_ok=True)
    for rest in store.glob("partial-*"):
        remove(rest)
    have = {} if with_dependencies else {need: stored(store, need, system) for need in wanted}
    missing = [need for need in wanted if not have.get(need)]
    wheels = [wheel for wheel in have.values() if wheel]
    if missing:
        check_pip()
        partial = store / ("partial-%d" % os.getpid())
        try:
            for folder in ("new", "tmp"):
                (partial / folder).mkdir(parents=True)
            run_pip(env, partial, missing, system, total_mb, with_dependencies)
            for wheel in sorted((partial / "new").glob("*.whl")):
                os.replace(wheel, store / wheel.name)
                wheels.append(store / wheel.name)
        finally:
            remove(partial)
    # torch first: its version is read from it.
    return sorted(wheels, key=lambda wheel: (not wheel.name.startswith("torch-"), wheel.name))


def stored(store: Path, need: str, system: str) -> Optional[Path]:
    name, version = need.split("==")
    machine = system.split("_", 1)[1]
    for wheel in sorted(store.glob("%s-%s-*.whl" % (name.replace("-", "_"), version))):
        if (machine in wheel.name or wheel.name.endswith("-any.whl")) and zipfile.is_zipfile(wheel):
            return wheel
    return None


def run_pip(env: Mapping[str, str], partial: Path, wanted: List[str], system: str, total_mb: int, with_dependencies: bool) -> None:
    """Downloads wheels for the running Python, or if there are none, for any Python: only their C++ is used."""
    base = [sys.executable, "-m", "pip", "download", "--dest", str(partial / "new"), "--only-binary=:all:"]
    base += ["--progress-bar", "off", "--disable-pip-version-check", "--no-input"]
    base += [] if with_dependencies else ["--no-deps"]
    # The wheels are deleted after unpacking, so a copy of 540 MB in pip's own cache would only waste space.
    base += [] if env.get("PIP_CACHE_DIR") or truthy(env, "TINYGATE_KEEP_WHEELS") else ["--no-cache-dir"]
    # pip downloads into TMPDIR and then copies. Here the progress can be measured; also, /tmp may be small.
    child_env = dict(env, TMPDIR=str(partial / "tmp"), PIP_REQUIRE_VIRTUALENV="0")
    say("downloading %s" % ", ".join(wanted))
    code, log = watched(base + wanted, child_env, partial, total_mb)
    if code != 0 and not NETWORK_SIGNS.search(log) and "No matching distribution" in log:
        say("pip finds no wheel for Python %s; trying the one for %s, which works too" % (platform.python_version(), ANY_PYTHON))
        code, log = watched(base + foreign_tags(system) + wanted, child_env, partial, total_mb)
    if code != 0:
        raise pip_error(log)


def foreign_tags(system: str) -> List[str]:
    """Options that select explicit wheel tags instead of those of the running Python."""
    family, machine = system.split("_", 1)
    if family == "linux":
        platforms = ["manylinux_2_%d_%s" % (minor, machine) for minor in range(GLIBC[1], 16, -1)] + ["manylinux2014_" + machine]
    else:
        platforms = ["macosx_%d_0_%s" % (major, machine) for major in range(15, 10, -1)]
    tags = ["--python-version", ANY_PYTHON, "--implementation", "cp", "--abi", "cp" + ANY_PYTHON.replace(".", ""), "--abi", "none"]
    return tags + [word for name in platforms for word in ("--platform", name)]


def watched(command: List[str], env: Dict[str, str], partial: Path, total_mb: int) -> Tuple[int, str]:
    """Runs pip and shows the progress. Returns its exit code and its output."""
    log = partial / "pip.log"
    progress = Progress(total_mb)
    with log.open("wb") as out:
        child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    code = child.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    progress.show(max(size_of(partial / "tmp"), size_of(partial / "new")))
        except BaseException:
            child.kill()
            child.wait()
            raise
    done = size_of(partial / "new")
    progress.end(done if code == 0 else None)
    return code, log.read_text(errors="replace")


def size_of(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            # pip renames and deletes files at the same time.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


class Progress:
    """Progress on one line in a terminal; elsewhere a new line every 10 % or 10 seconds."""

    def __init__(self, total_mb: int):
        self.total_mb = total_mb
        self.terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.last_time = self.started
        self.last_tenth = 0
        self.shown = False

    def show(self, size: int) -> None:
        mb = size // MB
        now = time.monotonic()
        tenth = mb * 10 // self.total_mb
        if not self.terminal and tenth <= self.last_tenth and now - self.last_time < 10:
            return
        self.last_time, self.last_tenth, self.shown = now, max(tenth, self.last_tenth), True
        rate = size / MB / max(now - self.started, 0.001)
        text = "  %d of about %d MB (%d %%), %.1f MB/s" % (mb, self.total_mb, min(99, mb * 100 // self.total_mb), rate)
        if self.terminal:
            print("\r" + text.ljust(60), end="", file=sys.stderr, flush=True)
        else:
            say(text)

    def end(self, size: Optional[int]) -> None:
        if self.terminal and self.shown:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)
        if size is not None:
            say("  %d MB in %d s" % (size // MB, time.monotonic() - self.started))


def pip_error(log: str) -> SetupError:
    errors = [line for line in log.splitlines() if line.startswith("ERROR:")] or log.strip().splitlines()[-1:]
    last = errors[-1][len("ERROR:"):].strip() if errors and errors[-1].startswith("ERROR:") else "".join(errors)
    if "No space left on device" in log:
        return SetupError("pip ran out of disk space", "free some space, or set TINYGATE_CACHE to a folder on a larger disk")
    if NETWORK_SIGNS.search(log):
        return SetupError(
            "pip cannot reach its package index: %s" % last,
            "check the network and pip's settings (`python3 -m pip config list`), then run this again",
        )
    return SetupError(
        "pip could not download libtorch: %s" % last,
        "see the output of `python3 -m pip download --no-deps torch==%s`: pip's package index may not have it" % VERSION,
    )


# ---- unpack


def unpack(wheels: List[Path], partial: Path, variant: str) -> None:
    """Unpacks the needed files, checks each against its wheel's RECORD, and writes the manifest last."""
    say("unpacking")
    remove(partial)
    partial.mkdir()
    entries: List[Entry] = []
    for wheel in wheels:
        entries += unpack_wheel(wheel, partial, variant)
    links: Dict[str, str] = {}
    if variant == "cpu" and (partial / "torch/lib/libtorch_cpu.so").exists():
        links["torch/lib/libtorch.so"] = "libtorch_cpu.so"
        os.symlink("libtorch_cpu.so", partial / "torch/lib/libtorch.so")
    entries.append(write_version(wheels[0], partial))
    manifest = {
        "format": MANIFEST_FORMAT,
        "version": VERSION,
        "variant": variant,
        "wheels": [wheel.name for wheel in wheels],
        "links": links,
        "files": entries,
    }
    # Sync everything before writing the manifest.
    os.sync()
    with (partial / MANIFEST).open("w") as file:
        json.dump(manifest, file, indent=0)
        file.flush()
        os.fsync(file.fileno())


def unpack_wheel(wheel: Path, partial: Path, variant: str) -> List[Entry]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            record = read_record(archive)
            wanted = [info for info in archive.infolist() if not info.is_dir() and needed(info.filename, variant)]
            return [unpack_file(archive, info, record, partial) for info in wanted]
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError) as error:
        raise Damaged("`%s` is damaged (%s)" % (wheel.name, error))
    except Damaged as error:
        raise Damaged("`%s` is damaged (%s)" % (wheel.name, error))


def needed(name: str, variant: str) -> bool:
    if variant == "cuda":
        return name.startswith(("torch/include/", "torch/lib/", "torch.libs/", "nvidia/"))
    if name.startswith("nvidia/"):
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in CUDA_RUNTIME_FILES)
    if not name.startswith(("torch/include/", "torch/lib/", "torch.libs/")):
        return False
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in CUDA_ONLY)


def dist_info(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if re.fullmatch(r"[^/]+\.dist-info/RECORD", name):
            return name[: -len("RECORD")]
    raise Damaged("the wheel has no RECORD")


def read_record(archive: zipfile.ZipFile) -> Dict[str, str]:
    """Path -> SHA-256 in hex, from the wheel's own list."""
    rows = csv.reader(io.StringIO(archive.read(dist_info(archive) + "RECORD").decode()))
    found = {}
    for row in rows:
        if len(row) == 3 and row[1].startswith("sha256="):
            text = row[1][len("sha256="):]
            found[row[0]] = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
    return found


def unpack_file(archive: zipfile.ZipFile, info: zipfile.ZipInfo, record: Dict[str, str], partial: Path) -> Entry:
    name = info.filename
    if name.startswith("/") or ".." in name.split("/"):
        raise Damaged("`%s` leads out of the archive" % name)
    want = record.get(name)
    if want is None:
        raise Damaged("`%s` is not in its RECORD" % name)
    target = partial / name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with archive.open(info) as source, target.open("wb") as out:
        for piece in iter(lambda: source.read(1 << 20), b""):
            digest.update(piece)
            size += len(piece)
            out.write(piece)
    if digest.hexdigest() != want:
        raise Damaged("`%s` does not have the hash of its RECORD" % name)
    # Use the wheel's own times, so that a tree that was downloaded again looks unchanged to the build.
    stamp = time.mktime(info.date_time + (0, 0, -1))
    os.utime(target, (stamp, stamp))
    return Entry(name, size, want)


def write_version(torch_wheel: Path, partial: Path) -> Entry:
    """The file with the version that torch-sys checks, as in libtorch's own archives."""
    try:
        with zipfile.ZipFile(torch_wheel) as archive:
            found = version_in_python(archive.read("torch/version.py").decode())
    except KeyError as error:
        raise Damaged("`%s` is damaged (%s)" % (torch_wheel.name, error))
    if found is None or found.split("+")[0] != VERSION:
        raise SetupError("pip's torch is version `%s`, not `%s`" % (found, VERSION), "see `python3 -m pip config list`")
    data = (found + "\n").encode()
    (partial / "torch/build-version").write_bytes(data)
    return Entry("torch/build-version", len(data), hashlib.sha256(data).hexdigest())


def on_sigterm(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, on_sigterm)
    sys.exit(main())
