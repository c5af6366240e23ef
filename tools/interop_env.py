#!/usr/bin/env python3
"""Creates the Python environment of the interop tests, with the real PyTorch, in the cache, and prints its Python.

The environment is complete if and only if its stamp, written last, matches tools/interop-requirements.txt and this
Python, and the packages can be imported. Otherwise it is removed and created again. PyTorch takes about 2.7 GB to download
and 4.7 GB on disk. Downloads are kept in <cache>/pip (or PIP_CACHE_DIR), so replacing a broken environment needs no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional

import libtorch
from libtorch import SetupError, cache_folder, check_space, from_os_error, locked, make_cache, remove, say

REQUIREMENTS = Path(__file__).with_name("interop-requirements.txt")
STAMP = "tinygate-stamp"
NEEDED_MB = 11000
OLDEST_PYTHON = (3, 10)  # the oldest for which there is a wheel of torch 2.13


def main() -> int:
    env = dict(os.environ)
    cache = cache_folder(env)
    venv = cache / "interop-venv"
    try:
        print(ensure(env, cache, venv))
        return 0
    except SetupError as error:
        say("error: %s\nhint: %s" % (error.problem, error.hint))
        return 2
    except OSError as error:
        problem = from_os_error(error, cache)
        say("error: %s\nhint: %s" % (problem.problem, problem.hint))
        return 2
    except KeyboardInterrupt:
        say("interrupted; the incomplete environment will be created again")
        return 130


def ensure(env: Dict[str, str], cache: Path, venv: Path) -> Path:
    make_cache(cache)
    with locked(cache / "interop.lock", "the interop environment"):
        problem = damage(venv)
        if problem is not None:
            say("interop environment: %s; creating it in %s" % (problem, venv))
            make(env, cache, venv)
            problem = damage(venv)
            if problem is not None:
                raise SetupError("the new interop environment does not work: %s" % problem, "see the output of `%s`" % (venv / "bin/python"))
    return venv / "bin/python"


def stamp() -> str:
    return "%s\n%s" % (sys.version, REQUIREMENTS.read_text())


def damage(venv: Path) -> Optional[str]:
    """Why the environment cannot be used, or None."""
    if not venv.exists():
        return "missing"
    try:
        if (venv / STAMP).read_text() != stamp():
            return "created for other requirements or another Python"
    except OSError:
        return "its set-up was interrupted"
    code = "import h5py, hdf5plugin, numpy, PIL, torch; print(torch.__version__.split('+')[0])"
    try:
        answer = subprocess.run([str(venv / "bin/python"), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        return "its Python does not start (%s)" % error
    if answer.returncode != 0:
        return (answer.stderr.strip().splitlines() or ["its packages cannot be imported"])[-1]
    if answer.stdout.strip() != libtorch.VERSION:
        return "its torch is %s, not %s" % (answer.stdout.strip(), libtorch.VERSION)
    return None


def make(env: Dict[str, str], cache: Path, venv: Path) -> None:
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError("PyTorch %s needs Python 3.10 or newer, but this is %s" % (libtorch.VERSION, sys.version.split()[0]), "set TINYGATE_PYTHON to a newer one")
    remove(venv)
    check_space(cache, NEEDED_MB)
    temporary = cache / "interop-tmp"
    remove(temporary)
    temporary.mkdir()
    try:
        made = subprocess.run([sys.executable, "-m", "venv", str(venv)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if made.returncode != 0:
            raise SetupError(
                "cannot create a Python environment: %s" % (made.stdout.strip().splitlines() or ["python -m venv failed"])[-1],
                "install venv (Debian, Ubuntu: `apt install python3-venv`)",
            )
        command = [str(venv / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        command += kept_wheel(cache) + ["-r", str(REQUIREMENTS)]
        # Keep pip's temporary files on the disk of the cache, since /tmp may be small.
        pip_env = dict(env, TMPDIR=str(temporary), PIP_CACHE_DIR=env.get("PIP_CACHE_DIR") or str(cache / "pip"))
        if subprocess.run(command, env=pip_env, stdout=sys.stderr).returncode != 0:
            raise SetupError("pip could not install PyTorch (see its output above)", "check the network and the disk, then run this again")
        (venv / STAMP).write_text(stamp())
    except BaseException:
        shutil.rmtree(venv, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def kept_wheel(cache: Path) -> List[str]:
    """The torch wheel kept from downloading libtorch, if it is for this Python, so that pip need not download it."""
    tag = "-cp%d%d-cp%d%d-" % (sys.version_info[:2] * 2)
    found = sorted((cache / "wheels").glob("torch-%s-*.whl" % libtorch.VERSION))
    return [str(wheel) for wheel in found if tag in wheel.name][:1]


if __name__ == "__main__":
    libtorch.signal.signal(libtorch.signal.SIGTERM, libtorch.on_sigterm)
    sys.exit(main())
