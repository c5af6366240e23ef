"""Runs mutants and prints the outcome of each. Called by tools/mutants.sh, which documents the environment variables.

cargo-mutants generates mutants; tests/mutants has more, as patches. They are built together: a mutated function contains
all its variants, and an environment variable selects one. Mutants that do not compile this way are built alone.

Each mutant first runs the tests closest to it, and only if it survives those, the tests of the whole core, including the
corpus of recorded logs and simulated runs. Mutants that survive both must be listed in tests/mutants/equivalent.txt, with
the reason why they are equivalent to the original code.
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
STORE = [*CORE, "--package", "tinygate-store"]
# Cargo stops at the first failing test program, so the quick ones come first.
NEAR = {
    "machine": [*CORE, "--package", "tinygate-machine", "--lib", "--test=scripted_runs"],
    # Without the tests that try every byte.
    "store": [*STORE, "--lib", "--test=store_faults", "--test=store_forms", "--test=store_repair"]
    + ["--", "--skip=every_flipped", "--skip=at_any_length"],
    # On real files.
    "files": [*STORE, "--lib", "--test=store_disk", "--", "--skip=a_damaged_sled_folder_is_rebuilt"],
    "controller": [*CORE, "--test=scripted_order", "--test=scripted_crashes"],
}
FILES = re.compile(
    r"src/store/(directory|import|lock|real_disk|real_file|scratch|sled_copy|sled_folder|sled_mirror|transfer|verify)\.rs"
)
WIDE = [
    *CORE,
    *("--package", "tinygate-replay", "--package", "tinygate-sim"),
    *("scripted_crashes", "scripted_order", "scripted_runs"),
    *("store_disk", "store_faults", "store_forms", "store_presence", "store_reads", "store_repair"),
    *("config_errors", "config_examples", "config_values", "damage", "audit", "corpus", "canaries", "seeds"),
]
WIDE = [arg if arg.startswith("-") or arg.startswith("tinygate") else f"--test={arg}" for arg in WIDE]

# A mutant hangs if it takes this many times as long as the original code, but at least this many seconds.
PATIENCE = 10
PATIENCE_MIN = 60

# Environment variable that selects the mutant.
ACTIVE = "TINYGATE_MUTANT"
SWITCH = """
pub mod mutant {
    // The machine has no std of its own.
    extern crate std;

    pub fn active() -> usize {
        static ACTIVE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
        *ACTIVE.get_or_init(|| std::env::var("TINYGATE_MUTANT").map_or(0, |text| text.parse().unwrap_or(0)))
    }
}
"""

WORDS = ("killed", "timeout", "equivalent", "unviable", "SURVIVED")


def fail(what, hint):
    print(f"error: {what}\nhint: {hint}", file=sys.stderr)
    sys.exit(2)


def copy_tree(tree):
    """Copies the checkout to `tree`. Unchanged files keep their times, so that cargo does not rebuild them."""
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


def run(command, tree, log, patience, variables):
    """Runs a command with its output in `log`. Returns the exit code, or None after a time-out."""
    env = dict(os.environ, **variables)
    with open(log, "ab") as output:
        # A separate process group, so that the tests that cargo runs can be ended with it.
        process = subprocess.Popen(
            command, cwd=tree, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
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
    """Runs tests on the code in the tree."""

    def __init__(self, tree, work):
        self.tree, self.work = tree, work
        self.patience = {}

    def cargo(self, *args, active=0, patience=None):
        log = self.work / "cargo.log"
        log.unlink(missing_ok=True)
        return run(["cargo", *args], self.tree, log, patience, {ACTIVE: str(active)})

    def prepare(self, tests):
        """Builds tests and runs them once with the original code."""
        key = tuple(tests)
        if key in self.patience:
            return
        for command in (["test", "--no-run"], ["test"]):
            begun = time.monotonic()
            if self.cargo(*command, *extra(), *tests) != 0:
                print((self.work / "cargo.log").read_text(errors="replace")[-4000:])
                fail("the tests fail without a mutant", "fix them first: cargo test " + " ".join(tests))
        self.patience[key] = max(PATIENCE_MIN, PATIENCE * (time.monotonic() - begun))

    def outcome(self, tests, active):
        """The outcome of a mutant that was built together with others."""
        self.prepare(tests)
        code = self.cargo("test", *extra(), *tests, active=active, patience=self.patience[tuple(tests)])
        return "timeout" if code is None else "SURVIVED" if code == 0 else "killed"


def extra():
    return os.environ.get("CARGO_ARGS", "").split()


def part(name):
    """The part of the source to which a path or a mutant's name belongs."""
    return name.split("/")[1]


def near(name):
    """The tests closest to a mutant."""
    return NEAR["files" if FILES.match(name) else part(name)]


class Mutant:
    """A function of the source, lines `first` to `last`, and its replacement."""

    def __init__(self, path, function, text, changed):
        self.path, self.first, self.last = path, *function
        self.longer = len(changed) - len(text)
        self.lines = changed[self.first - 1 : self.last + self.longer]
        self.alone = changed
        # Nothing else differs, so it can be built together with others.
        before = text[: self.first - 1] == changed[: self.first - 1]
        self.local = before and text[self.last :] == changed[self.last + self.longer :]


def cargo_mutants(tree, *folders):
    command = ["cargo-mutants", "mutants", "--list", "--json", "--no-config", "--workspace"]
    command += ["--no-default-features", *(f"--file=src/{folder}/**" for folder in folders)]
    return json.loads(subprocess.run(command, cwd=tree, check=True, stdout=subprocess.PIPE).stdout)


def listed(tree):
    """All mutants of cargo-mutants by name, in the order of the source."""
    found = {}
    for mutant in cargo_mutants(tree, "store", "machine"):
        text = (tree / mutant["file"]).read_text().splitlines(keepends=True)
        start, end = mutant["span"]["start"], mutant["span"]["end"]
        before = text[start["line"] - 1][: start["column"] - 1]
        after = text[end["line"] - 1][end["column"] - 1 :]
        middle = (before + mutant["replacement"] + after).splitlines(keepends=True)
        changed = text[: start["line"] - 1] + middle + text[end["line"] :]
        function = mutant["function"]["span"] if mutant["function"] else mutant["span"]
        lines = function["start"]["line"], function["end"]["line"]
        found[mutant["name"]] = Mutant(mutant["file"], lines, text, changed)
    return found


def hand_made(tree, patches):
    """The mutants of tests/mutants by name."""
    functions = {}
    for mutant in cargo_mutants(tree, "store", "machine", "controller"):
        if mutant["function"]:
            span = mutant["function"]["span"]
            functions.setdefault(mutant["file"], set()).add((span["start"]["line"], span["end"]["line"]))
    # Make git apply work outside of a repository, even if the cache is inside one.
    env = dict(os.environ, GIT_CEILING_DIRECTORIES=str(tree.parent))
    found = {}
    for patch in patches:
        paths = re.findall(r"^\+\+\+ b/(\S+)$", patch.read_text(), re.M)
        if len(paths) != 1:
            fail(f"tests/mutants/{patch.name} changes {len(paths)} files", "create it with git diff, for one file")
        path = tree / paths[0]
        text = path.read_text()
        apply = subprocess.run(["git", "apply", str(patch)], cwd=tree, env=env, stderr=subprocess.PIPE)
        changed = path.read_text()
        path.write_text(text)
        if apply.returncode != 0 or changed == text:
            fail(
                f"tests/mutants/{patch.name} no longer applies: {apply.stderr.decode().strip()}",
                "recreate it for the current source",
            )
        text, changed = text.splitlines(keepends=True), changed.splitlines(keepends=True)
        # The smallest function that contains the whole change.
        spans = sorted(functions.get(paths[0], ()), key=lambda span: span[1] - span[0])
        around = (Mutant(paths[0], span, text, changed) for span in spans)
        whole = Mutant(paths[0], (1, 1), text, changed)
        found[patch.stem] = next((mutant for mutant in around if mutant.local), whole)
    return found


def split(lines):
    """Splits a function into the text before its body, and the body with its braces."""
    text, depth = "".join(lines), 0
    for place, character in enumerate(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "{" and depth == 0:
            return text[:place], text[place:].rstrip("\n")
    return None


def crate_root(tree, path):
    """The root file of the library that a source file belongs to."""
    folder = next(folder for folder in (tree / path).parents if (folder / "Cargo.toml").is_file())
    return next(root for root in (folder / "mod.rs", folder / "src/lib.rs") if root.is_file())


def build_in(tree, mutants):
    """Builds numbered mutants into the tree together. Returns the lines of each, by file and line."""
    places = {}
    for library in {crate_root(tree, mutant.path) for mutant in mutants.values()}:
        library.write_text(library.read_text() + SWITCH)
    by_path = {}
    for number, mutant in mutants.items():
        by_path.setdefault(mutant.path, {}).setdefault((mutant.first, mutant.last), []).append((number, mutant))
    for path, functions in by_path.items():
        text = (tree / path).read_text().splitlines(keepends=True)
        result, at = [], 0
        for (first, last), members in sorted(functions.items()):
            head, body = split(text[first - 1 : last])
            result += text[at : first - 1]
            everyone = {number for number, _ in members}
            places.update({(path, len(result) + 1 + line): everyone for line in range(head.count("\n") + 1)})
            result += (head + "{ match crate::mutant::active() {\n").splitlines(keepends=True)
            for number, mutant in members:
                begun = len(result)
                result += (f"{number} => {split(mutant.lines)[1]}\n").splitlines(keepends=True)
                places.update({(path, line): {number} for line in range(begun + 1, len(result) + 1)})
            result += (f"_ => {body}\n" + "} }\n").splitlines(keepends=True)
            at = last
        (tree / path).write_text("".join(result + text[at:]))
    return places


def side_by_side(tests, mutants):
    """Builds in the mutants that compile together. Returns the numbers of those that do not."""
    apart, spans = set(), {}
    for number, mutant in sorted(mutants.items(), key=lambda item: (item[1].path, item[1].first, item[1].last)):
        span = (mutant.first, mutant.last)
        others = spans.setdefault(mutant.path, set())
        crossed = any(span != other and other[0] <= span[1] and span[0] <= other[1] for other in others)
        if not mutant.local or crossed or not split(mutant.lines):
            apart.add(number)
        else:
            others.add(span)
    while True:
        copy_tree(tests.tree)
        places = build_in(tests.tree, {number: mutant for number, mutant in mutants.items() if number not in apart})
        command = ["check", "--message-format=json", *extra(), *CORE]
        if tests.cargo(*command) == 0:
            return apart
        bad = set()
        for line in (tests.work / "cargo.log").read_text(errors="replace").splitlines():
            message = json.loads(line).get("message", {}) if line.startswith("{") else {}
            if message.get("level") == "error":
                spans = [span for span in message["spans"] if span["is_primary"]]
                for span in spans:
                    lines = range(span["line_start"], span["line_end"] + 1)
                    bad = bad.union(*(places.get((span["file_name"], line), set()) for line in lines))
        if not bad:
            print((tests.work / "cargo.log").read_text(errors="replace")[-4000:])
            fail("the mutants cannot be built together", "see above")
        apart |= bad


def chosen(names, count, seed, start):
    """`count` of the mutants, shuffled, alternating between the parts of the source."""
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
    """Names that do not depend on changes elsewhere in the file: with an index among equal names instead of a line."""
    bare = {name: re.sub(r"^([^:]+):\d+:\d+:", r"\1:", name) for name in names}
    known = list(bare.values())
    seen, result = {}, {}
    for name, short in bare.items():
        seen[short] = seen.get(short, 0) + 1
        result[name] = f"{short} #{seen[short]}" if known.count(short) > 1 else short
    return result


def explained():
    """The equivalent mutants, each with the reason."""
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


def outcome_alone(tests, mutant):
    """The outcome of a mutant that does not compile together with others."""
    copy_tree(tests.tree)
    (tests.tree / mutant.path).write_text("".join(mutant.alone))
    if tests.cargo("check", *extra(), *CORE) != 0:
        return "unviable"
    for wanted in (near(mutant.path), WIDE):
        # The original code has run these tests or will run them.
        patience = tests.patience.get(tuple(wanted), 10 * PATIENCE_MIN)
        if tests.cargo("test", "--no-run", *extra(), *wanted) != 0:
            return "unviable"
        code = tests.cargo("test", *extra(), *wanted, patience=patience)
        if code != 0:
            return "timeout" if code is None else "killed"
    return "SURVIVED"


def main(work):
    # End running tests too.
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
        fail("another process is running mutants", f"wait for it to finish; it uses {work}")
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
    by_hand = hand_made(tree, patches)
    wanted = list(by_hand.items())
    wanted += [(short[name], everything[name]) for name in chosen(everything, count, seed, start)]
    mutants = {number: mutant for number, (_, mutant) in enumerate(wanted, 1)}
    names = {number: name for number, (name, _) in enumerate(wanted, 1)}
    apart = side_by_side(tests, mutants)
    print(f"mutants: {len(mutants) - len(apart)} are built together, {len(apart)} alone", flush=True)
    left = [number for number in mutants if number not in apart]
    for stage in ("near", "wide"):
        survivors = []
        for number in left:
            found = tests.outcome(near(mutants[number].path) if stage == "near" else WIDE, number)
            if found == "SURVIVED" and stage == "near" and names[number] not in reasons:
                print(f"survived so far  {names[number]}", flush=True)
                survivors.append(number)
            else:
                note(names[number], found)
        left = survivors
    for number in sorted(apart):
        found = outcome_alone(tests, mutants[number])
        if found == "unviable" and names[number] in by_hand:
            # These are written by hand; one that does not compile tests nothing.
            fail(f"tests/mutants/{names[number]}.patch does not compile", f"see {work / 'cargo.log'}")
        note(names[number], found)
    copy_tree(tree)

    print(f"\n{len(table)} mutants")
    for word in WORDS:
        print(f"{sum(1 for outcome in table.values() if outcome == word):>6}  {word}")
    print("timeout: the tests hung, which counts as killed; unviable: it does not compile")
    for name in gone:
        print(f"equivalent.txt: there is no longer a mutant `{name}`")
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
