"""Counts checks: prints each failure, and the totals at the end."""

import sys

_passed = 0
_failed = 0


def ok():
    global _passed
    _passed += 1


def fail(name, detail=""):
    global _failed
    _failed += 1
    print(f"FAILED: {name}{': ' if detail else ''}{detail}")


def check(name, condition, detail=""):
    if condition:
        ok()
    else:
        fail(name, detail)


def check_equal(name, found, expected):
    same = found == expected
    check(name, same, "" if same else difference(found, expected))


def difference(found, expected, path="value"):
    """The first difference of two values, on one line."""
    both_lists = isinstance(found, list) and isinstance(expected, list)
    if both_lists and len(found) == len(expected):
        for index, (one, other) in enumerate(zip(found, expected)):
            if one != other:
                return difference(one, other, f"{path}[{index}]")
    return f"at {path}: found {str(found)[:300]}, expected {str(expected)[:300]}"


def finish(note=""):
    """Prints the totals and exits, with 1 if anything failed or nothing was checked."""
    print(f"{_passed} passed, {_failed} failed{note}")
    sys.exit(1 if _failed or not _passed else 0)
