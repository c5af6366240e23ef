"""docs/protocol.md: its examples are valid, and every message has one."""

from __future__ import annotations

import json
import re
import unittest

from fake_host import ROOT
from messages import COMMANDS, FACTS, FAILURES, REPORTS, problems_of

TEXT = (ROOT / "docs" / "protocol.md").read_text()


class Documentation(unittest.TestCase):
    def sections(self) -> list[tuple[str, list[str]]]:
        """The sections of messages, with the lines of their examples."""
        parts = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
        blocks = [(part.split("\n", 1)[0], re.findall(r"^```json\n(.*?)^```", part, re.MULTILINE | re.DOTALL)) for part in parts]
        return [(name, [line for block in found for line in block.splitlines()]) for name, found in blocks]

    def test_every_message_has_a_section(self) -> None:
        self.assertEqual(sorted(name for name, _ in self.sections()), sorted([*COMMANDS, *FACTS, *REPORTS]))

    def test_the_examples_are_valid(self) -> None:
        for name, lines in self.sections():
            self.assertTrue(lines, name)
            for line in lines:
                with self.subTest(line[:60]):
                    message = json.loads(line)
                    self.assertEqual(problems_of(message), [])
                    self.assertIn(name, (message.get("command"), message.get("fact"), message.get("report")))

    def test_every_failure_has_an_example(self) -> None:
        lines = dict(self.sections())["chunk_failed"]
        self.assertEqual([json.loads(line)["failure"]["failure"] for line in lines], list(FAILURES))


if __name__ == "__main__":
    unittest.main()
