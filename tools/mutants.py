"""Runs mutants and prints what came of each. Called by tools/mutants.sh, which says what it reads from the environment.

Each mutant meets the tests beside what it breaks first, and those of the whole core (the corpus of recorded logs and
simulated runs with it) only if it survived these. What survives both must stand in tests/mutants/equivalent.txt, with
the reason why nobody can tell it from the right code.
"""

import fcntl
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HAND_MADE = ROOT / "tests/mutants"
EQUIVALENT = HAND_MADE / "equivalent.txt"

CORE = ["--no-default-features", "--package", "tinygate"]
# The lib's own tests are the machine's. Cargo stops at the first program that fails, so quick ones come first.
NEAR = {
    "machine": [*CORE, "--lib", "--test=scripted_runs"],
    # without those that try every byte
    "store": [*CORE, "--lib", "--test=store_faults", "--test=store_forms", "--test=store_repair"]
    + ["--", "--skip=every_flipped", "--skip=at_any_length"],
    # on real files
    "files": [*CORE, "--lib", "--test=store_disk", "--", "--skip=a_damaged_sled_folder_is_made_again"],
    "controller": [*CORE, "--test=scripted_order", "--test=scripted_crashes"],
}
FILES = re.compile(r"src/store/(disk|lock|scratch|sled_mirror|transfer|verify)\.rs")
WIDE = [
    *CORE,
    *("--package", "tinygate-replay", "--package", "tinygate-sim"),
    *("scripted_crashes", "scripted_order", "scripted_runs", "store_disk", "store_faults", "store_forms", "store_repair"),
    *("damage", "audit", "corpus", "canaries", "seeds"),
]
WIDE = [arg if arg.startswith("-") or arg.startswith("tinygate") else f"--test={arg}" for arg in WIDE]

# A mutant that takes this many times as long as the right code hangs; and never less than so many seconds.
PATIENCE = 10
PATIENCE_MIN = 120

WORDS = ("killed", "timeout", "equivalent", "unviable", "SURVIVED")


def fail(what, hint):
    print(f"error: {what}\nhint: {hint}", file=sys.stderr)
    sys.exit(2)


def copy_tree(tree):
    """Makes `tree` hold what the checkout holds. A file that is the same keeps its time, so cargo builds it once."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = set(filter(None, subprocess.run(listed, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")))
    names = {name for name in names if (ROOT / name).is_file()}
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        if str(path.relative_to(tree)) not in names:
            path.unlink()
    for name in names:
        content, to = (ROOT / name).read_bytes(), tree / name
        if not to.is_file() or to.read_bytes() != content:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(content)
        to.chmod((ROOT / name).stat().st_mode)


def run(command, tree, log, patience=None):
    """The exit code, or None where patience ended; output goes into `log`."""
    with open(log, "ab") as output:
        # a group of its own: the tests that cargo runs end with it
        process = subprocess.Popen(
            command, cwd=tree, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Tests:
    """The tests, and how long the right code takes for them."""

    def __init__(self, tree, work):
        self.tree, self.work = tree, work
        self.patience = {}

    def prepare(self, tests):
        """Runs tests with the right code, once. Returns the seconds that a mutant has."""
        key = tuple(tests)
        if key not in self.patience:
            log = self.work / "unmutated.log"
            cargo = ["cargo", "test", *extra(), *tests]
            for command in (["cargo", "test", "--no-run", *cargo[2:]], cargo):
                begun = time.monotonic()
                if run(command, self.tree, log) != 0:
                    print(log.read_text(errors="replace")[-4000:])
                    fail("the tests fail without a mutant", "mend them first: " + " ".join(command))
            self.patience[key] = max(PATIENCE_MIN, PATIENCE * (time.monotonic() - begun))
        return self.patience[key]

    def outcome(self, tests, patience):
        """What the tests say of the tree as it is now."""
        log = self.work / "mutant.log"
        log.unlink(missing_ok=True)
        cargo = ["cargo", "test", *extra(), *tests]
        if run(["cargo", "test", "--no-run", *cargo[2:]], self.tree, log) != 0:
            return "unviable"
        code = run(cargo, self.tree, log, patience)
        return "timeout" if code is None else "SURVIVED" if code == 0 else "killed"


def extra():
    return os.environ.get("CARGO_ARGS", "").split()


def part(name):
    """The part of the source that a path or a mutant's name is of."""
    return name.split("/")[1]


def near(name):
    """The tests beside what a mutant breaks."""
    return NEAR["files" if FILES.match(name) else part(name)]


def listed(tree):
    """Every mutant that cargo-mutants can make, in the order of the source: what it changes, by name.

    Our own runner applies them: 27.1.0 cannot run some alone, since it never leaves out those that delete a field.
    """
    command = ["cargo-mutants", "mutants", "--list", "--json", "--diff", "--no-config", "--package", "tinygate"]
    command += ["--no-default-features", "--file", "src/store/**", "--file", "src/machine/**"]
    done = subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE)
    found = {}
    for mutant in json.loads(done.stdout):
        _, _, change = mutant["diff"].split("\n", 2)
        found[mutant["name"]] = f"--- a/{mutant['file']}\n+++ b/{mutant['file']}\n{change}"
    return found


def chosen(names, count, seed, start):
    """`count` of the mutants, shuffled; the parts take turns as long as each has some."""
    if count == "all":
        return list(names)
    parts = {}
    for name in names:
        parts.setdefault(part(name), []).append(name)
    order = []
    for members in parts.values():
        random.Random(seed).shuffle(members)
        order += [(place, name) for place, name in enumerate(members)]
    order = [name for _, name in sorted(order)]
    return order[start : start + int(count)]


def plain(names):
    """Names that a change elsewhere in the file leaves alone: no line, but the place among equal names, if it has any."""
    bare = {name: re.sub(r"^([^:]+):\d+:\d+:", r"\1:", name) for name in names}
    known = list(bare.values())
    seen, result = {}, {}
    for name, short in bare.items():
        seen[short] = seen.get(short, 0) + 1
        result[name] = f"{short} #{seen[short]}" if known.count(short) > 1 else short
    return result


def explained():
    """The mutants that are equivalent, each with the reason."""
    reasons, name = {}, None
    for line in EQUIVALENT.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(" "):
            if name is None:
                fail(f"{EQUIVALENT}: a reason without a mutant: {line.strip()}", "the mutant's name comes before it")
            reasons[name] = f"{reasons[name]} {line.strip()}".strip()
        else:
            name = line
            if name in reasons:
                fail(f"{EQUIVALENT} names `{name}` twice", "keep one")
            reasons[name] = ""
    for name, reason in reasons.items():
        if not reason:
            fail(f"{EQUIVALENT} does not say why `{name}` is equivalent", "indent the reason below it")
    return reasons


def outcome(tests, name, change):
    """What comes of a change, which is a patch."""
    changed = re.findall(r"^\+\+\+ b/(\S+)$", change, re.M)
    if not changed:
        fail(f"the mutant {name} changes no file", "make it with git diff")
    # outside of a repository, whichever one the cache lies in
    env = dict(os.environ, GIT_CEILING_DIRECTORIES=str(tests.tree.parent))

    def apply(*options):
        command = ["git", "apply", *options, "-"]
        applied = subprocess.run(command, cwd=tests.tree, env=env, input=change.encode(), stderr=subprocess.PIPE)
        if applied.returncode != 0:
            fail(
                f"the mutant {name} does not apply any more: {applied.stderr.decode().strip()}",
                "make it anew for the present source",
            )

    for wanted in (near(changed[0]), WIDE):
        patience = tests.prepare(wanted)
        apply()
        try:
            found = tests.outcome(wanted, patience)
        finally:
            apply("--reverse")
        if found != "SURVIVED":
            break
    return found


def main(work):
    # the tests that run are ended, and a patch is taken back
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    count, seed = os.environ.get("MUTANTS") or "60", int(os.environ.get("SEED") or 0)
    start, hand = int(os.environ.get("FROM") or 0), os.environ.get("HAND") or "all"
    print(f"mutants: MUTANTS={count} SEED={seed} FROM={start} HAND={hand}", flush=True)
    tree = work / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    lock = open(work / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail("mutants are being run already", f"wait until they are done; they have {work}")
    for log in work.glob("*.log"):
        log.unlink()
    copy_tree(tree)
    tests = Tests(tree, work)
    reasons = explained()

    everything = listed(tree)
    short = plain(everything)
    patches = sorted(HAND_MADE.glob("*.patch"))
    known = set(short.values()) | {patch.stem for patch in patches}
    gone = [name for name in reasons if name not in known]
    table = {}

    def note(name, outcome):
        if outcome == "SURVIVED" and name in reasons:
            outcome = "equivalent"
        table[name] = outcome
        print(f"{outcome:<10}  {name}", flush=True)

    if hand != "all":
        patches = [patches[(start + place) % len(patches)] for place in range(min(int(hand), len(patches)))]
    for patch in patches:
        found = outcome(tests, patch.stem, patch.read_text())
        if found == "unviable":
            # these are written by hand: one that does not compile tests nothing
            fail(f"tests/mutants/{patch.name} does not compile", f"see {work / 'mutant.log'}")
        note(patch.stem, found)
    # by tests, so that less is built
    for name in sorted(chosen(everything, count, seed, start), key=lambda name: list(NEAR.values()).index(near(name))):
        note(short[name], outcome(tests, name, everything[name]))

    print(f"\n{len(table)} mutants")
    for word in WORDS:
        print(f"{sum(1 for outcome in table.values() if outcome == word):>6}  {word}")
    print("timeout: the tests hung, and counts as killed; unviable: it does not compile")
    for name in gone:
        print(f"equivalent.txt: there is no mutant `{name}` any more")
    for name, outcome in table.items():
        if outcome == "killed" and name in reasons:
            print(f"equivalent.txt: `{name}` is killed, so it is not equivalent")
            gone.append(name)
    survived = [name for name, outcome in table.items() if outcome == "SURVIVED"]
    for name in survived:
        print(f"survived: {name}")
    sys.exit(1 if survived or gone else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
