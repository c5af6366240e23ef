#!/usr/bin/env python3
"""Runs tinygate's ranks under the torchrun of a pip-installed PyTorch, and compares with ranks that tinygate starts.

    torchrun.py --tinygate BINARY --config CONFIG --data FRAMES --into DIR

Both must write the same files in every checkpoint, byte for byte. Prints a line per failure and `N passed, N failed`;
exits 1 if anything failed or nothing was checked.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

from checks import check_equal, finish


def hashes(run):
    files = sorted(run.glob("*/checkpoints/*_step_*/*.pt"))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def environment():
    """The environment without variables of other jobs."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {key: value for key, value in os.environ.items() if key not in names}


def run(name, command):
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    check_equal(f"{name}: exit code", done.returncode, 0)
    if done.returncode != 0:
        print(done.stdout[-4000:], done.stderr[-4000:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tinygate", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--into", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.into, ignore_errors=True)
    arguments.into.mkdir(parents=True)

    def command(folder):
        settings = [f"data.path={arguments.data}", "distributed.timeout_seconds=120"]
        pairs = [word for setting in settings for word in ("--set", setting)]
        return [arguments.tinygate, "run", arguments.config, "--dir", str(folder), "--quiet", *pairs]

    own = arguments.into / "own" / "run"
    run("ranks of our own", [*command(own), "--set", "nproc_per_node=2"])
    launched = arguments.into / "torchrun" / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc_per_node=2"]
    run("ranks of torchrun", [*torchrun, *command(launched)])
    expected = hashes(own)
    check_equal("there are checkpoints", len(expected) > 0, True)
    check_equal("checkpoints", hashes(launched), expected)
    run("replay", [arguments.tinygate, "replay", str(launched)])
    # A job that torchrun restarts resumes the run, which has already finished here.
    run("the same job again", [*torchrun, *command(launched), "--or-resume"])

    # If it is killed, no process is left: its ranks stop with a checkpoint, and the run can be resumed.
    killed = arguments.into / "killed" / "run"
    long = ["--set", "video_tokenizer.n_updates=1000000", "--set", "video_tokenizer.chunk_size=10", "--json"]
    agent = subprocess.Popen(
        [*torchrun, *command(killed), *long], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )
    check_equal("the ranks of torchrun train", agent.stdout.readline().startswith("{"), True)
    agent.kill()
    agent.wait()
    # The ranks keep the other end of this pipe open until the last of them has exited.
    agent.stdout.read()
    status = subprocess.run([arguments.tinygate, "status", "--json", str(killed)], capture_output=True, text=True)
    check_equal("no process has the run open", json.loads(status.stdout).get("process"), None)

    finish()


main()
