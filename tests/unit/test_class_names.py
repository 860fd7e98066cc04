"""A public class name means one thing in the whole repository."""

import ast
from collections import defaultdict

from tests.pages import ROOT

STILL_TWICE = {
    "Ping",
}
"""Names that stand for more than one thing today. The list only gets shorter: who renames a class takes it out."""


def test_a_class_name_means_one_thing_in_the_whole_repository() -> None:
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for package in ("runtime", "bridge", "consumers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_bytes()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    twice = {name: places for name, places in homes.items() if len(places) > 1}
    assert set(twice) == STILL_TWICE, {name: twice.get(name, []) for name in set(twice) ^ STILL_TWICE}
