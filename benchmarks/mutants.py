"""Change a module in one place at a time, and count the changes that its tests notice.

    pip install cosmic-ray
    python benchmarks/mutants.py training/losses --sample 40 --seed 0
    python benchmarks/mutants.py training/losses --only 214 381

A mutant is a module with one change by an operator of cosmic-ray: another arithmetic sign or
comparison, a number that is one higher or lower, a condition turned round, a loop that never runs.
It is killed if a test fails with it or uses ten times the processor's time; the others are printed.
No file is changed: each mutant lives in a process of its own, forked after the libraries were
imported. docs/reliability.md holds the figures.

Left out, because no test should see it: annotations; imports for type checkers; and what stands in
`raise`, which is messages. Bit operators in place of arithmetic, and `is` in place of `==`, fail at
once and would flatter the figure: left out too.
"""

from __future__ import annotations

import argparse
import ast
import importlib.machinery
import importlib.util
import os
import random
import resource
import sys
from pathlib import Path

import pytest
import repository  # noqa: F401  first, so that the package is found
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[1]
TESTS = {  # module: the test files that cover it, the quickest first
    "training/losses": "training/test_losses training/test_multi_label_losses",
    "training/estimators": "training/test_estimators",
    "ops/patches": "ops/test_patches",
    "ops/geometry": "ops/test_patches",
    "preparation/splits": "preparation/test_splits",
    "preparation/assign_splits": "preparation/test_assign_splits",
    "evaluation/early_exit": "evaluation/test_early_exit",
    "evaluation/metrics": "evaluation/test_metrics",
}
LIBRARIES = "timm", "pandas", "sklearn.metrics", "scipy.stats", "matplotlib.figure", "torch._dynamo"
KINDS = {"BitOr", "BitAnd", "BitXor", "LShift", "RShift"}, {"Is", "IsNot"}  # not to be mixed


def places_left_out(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The first and last positions, (line, column), of code whose mutants say nothing."""
    found: list = []
    for node in ast.walk(ast.parse(source)):
        found += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        checks_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if isinstance(node, ast.Raise) or checks_types:
            found.append(node)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found if n]


def mutants_of(source: str) -> list[tuple[str, int, int]]:
    """All mutants: the operator's name, which of its places, and the line."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.operators.provider import OperatorProvider

    left_out, nodes = places_left_out(source), list(ast_nodes(get_ast(source)))
    found = []
    for name in sorted(OperatorProvider()):
        signs = set(name.split("_")[1:])  # from and to
        if name.startswith("Variable") or any(len(signs & kind) == 1 for kind in KINDS):
            continue
        operator = OperatorProvider()[name]()
        places = [(node, at[0]) for node in nodes for at in operator.mutation_positions(node)]
        found += [
            (name, occurrence, start[0])
            for occurrence, (node, start) in enumerate(places)
            if not any(first <= start < last for first, last in left_out)
            and (node.parent is None or node.parent.type != "parameters")  # a bare * is no sign
        ]
    return found


class Replaced(importlib.machinery.SourceFileLoader):
    """Finds and loads a single module, with another source than its file's."""

    source: str

    def get_code(self, fullname: str):
        return compile(self.source, self.path, "exec")

    def find_spec(self, name: str, path=None, target=None):
        if name == self.name:
            return importlib.util.spec_from_file_location(name, self.path, loader=self)


def fails(file: Path, source: str, tests: list[str], seconds: int) -> bool:
    """Whether the tests fail with this source, or take more of the processor's time."""
    if child := os.fork():
        return os.waitpid(child, 0)[1] != 0
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))  # a mutant may ask for any memory
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        finder = Replaced(name, str(file))
        finder.source = source
        sys.meta_path.insert(0, finder)
        options = "-x -p no:cacheprovider -p _hypothesis_pytestplugin --hypothesis-profile mutants"
        code = int(pytest.main(options.split() + tests))
    finally:
        os._exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("module", choices=TESTS)
    parser.add_argument("--sample", type=int, default=40, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="the numbers of mutants to try")
    args = parser.parse_args()
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.operators.provider import OperatorProvider

    file = ROOT / "stacked_ram" / f"{args.module}.py"
    tests = [str(ROOT / "tests" / f"{name}.py") for name in TESTS[args.module].split()]
    source = file.read_text()
    mutants = mutants_of(source)
    drawn = random.Random(args.seed).sample(range(len(mutants)), min(args.sample, len(mutants)))
    for library in LIBRARIES:
        importlib.import_module(library)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # half of the time; nor are examples reduced
    settings.register_profile("mutants", derandomize=True, phases=[Phase.generate])
    if fails(file, source, tests, 600):
        sys.exit(f"{args.module}: the tests fail without any change")
    seconds = 1 + int(10 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime)
    tried, survived = sorted(args.only or drawn), 0
    for number in tried:
        operator, occurrence, line = mutants[number]
        changed = mutate_code(source, OperatorProvider()[operator](), occurrence)
        if not fails(file, changed, tests, seconds):
            survived += 1
            before, after = (text.splitlines()[line - 1].strip() for text in (source, changed))
            print(f"survived: {number}, line {line}\n    {before}\n    {after}", flush=True)
    print(f"{args.module}: {len(tried)} of {len(mutants)} mutants, {survived} survived")


if __name__ == "__main__":
    main()
