"""Tests of the set-up scripts: missing tools are reported before anything is built. No network."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Scripts(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def run_script(self, *command, **env):
        env = dict(os.environ, CARGO_TARGET_DIR=str(self.folder / "target"), **env)
        return subprocess.run(
            [str(ROOT / "tools" / command[0]), *command[1:]],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )

    def program(self, name, text):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    def link(self, *names):
        (self.folder / "bin").mkdir(exist_ok=True)
        for name in names:
            (self.folder / "bin" / name).symlink_to(shutil.which(name))

    def test_too_little_space_for_a_build_is_reported_before_it(self):
        self.program("df", "echo Filesystem 1024-blocks Used Available\necho disk 9 9 700000\n")
        path = "%s:%s" % (self.folder / "bin", os.environ["PATH"])
        done = self.run_script("with-libtorch", "true", PATH=path)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("has 700 MB free; a build takes about 3000 MB", done.stderr)
        self.assertIn("hint: ", done.stderr)
        # Later builds need less space.
        (self.folder / "target/debug").mkdir(parents=True)
        done = self.run_script("with-libtorch", "true", PATH=path, LIBTORCH="/nowhere")
        self.assertNotIn("a build takes", done.stderr)

    def test_without_cargo_the_hint_says_what_to_install(self):
        self.link("bash", "dirname", "sed", "env")
        done = self.run_script("format.sh", "--check", PATH=str(self.folder / "bin"), CARGO_HOME=str(self.folder))
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("error: there is no cargo", done.stderr)
        self.assertIn("hint: install Rust", done.stderr)


if __name__ == "__main__":
    unittest.main()
