"""How many small faults in the front end the quick tests find: `python -m tests.mutants [--ref COMMIT] [--count 200]`.

A seeded sample of places in the folders below is changed, one at a time, in a checkout of its own; the quick tests run
until one fails. A fault that none finds has survived. Rows are kept as JSON lines, and a run goes on where it was stopped.
The score of two commits is compared: each has its own sample, drawn in the same way.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("language", "recipe", "plan", "solve")
TESTS = ("tests/spec", "tests/property", "tests")
"""Runs of pytest, one after the other: the tests that find most come first, without the import of the rest."""
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
JOINED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult}


def changed(node: ast.AST) -> ast.AST | None:
    """The node with one fault, or None where this kind of node gets none."""
    new = copy.copy(node)
    match node:
        case ast.Compare(ops=[first, *rest]) if type(first) in COMPARED:
            new.ops = [COMPARED[type(first)](), *rest]
        case ast.BoolOp(op=op):
            new.op = ast.Or() if isinstance(op, ast.And) else ast.And()
        case ast.UnaryOp(op=ast.Not()):
            return node.operand
        case ast.BinOp(op=op) if type(op) in JOINED:
            new.op = JOINED[type(op)]()
        case ast.Constant(value=bool(value)):
            new.value = not value
        case ast.Constant(value=int(value)):
            new.value = value + 1
        case ast.If() | ast.IfExp():
            new.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return(value=ast.AST() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            new.value = ast.Constant(None)
        case ast.Expr(value=ast.Call()):
            return ast.Pass()
        case _:
            return None
    return new


def places(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """The (number, line) of each node that can have a fault, by its number in a walk over the tree."""
    for number, node in enumerate(ast.walk(tree)):
        if changed(node) is not None:
            yield number, node.lineno


def mutated(text: str, number: int) -> str:
    """The module with a fault at one place."""
    tree = ast.parse(text)
    target = next(node for at, node in enumerate(ast.walk(tree)) if at == number)

    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return changed(node) if node is target else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Swap().visit(tree)))


def sample(package: Path, count: int, seed: int) -> list[tuple[str, int, int]]:
    """(file, number, line) of `count` places, each place as likely as any other."""
    assert all((package / folder).is_dir() for folder in FOLDERS)
    found = [
        (str(path.relative_to(package.parent)), number, line)
        for folder in FOLDERS
        for path in sorted((package / folder).rglob("*.py"))
        for number, line in places(ast.parse(path.read_text(encoding="utf-8")))
    ]
    return sorted(random.Random(seed).sample(found, count))


def survives(tree: Path, limit: int) -> bool:
    """Whether all quick tests pass; a test run that hangs has found the fault."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    for stage in TESTS:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--quick", "-p", "no:cacheprovider", stage]
        try:
            run = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return False
        if run.returncode:
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ref", default="HEAD", help="the commit whose code is changed")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=600, help="seconds for one run of the tests")
    chosen = parser.parse_args()
    commit = subprocess.check_output(["git", "rev-parse", "--short", chosen.ref], cwd=ROOT, text=True).strip()
    work = ROOT / "build" / "mutants"
    tree, rows_file = work / commit, work / f"{commit}-{chosen.seed}.jsonl"
    if not tree.exists():
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["git", "checkout", "--force", "--quiet", commit], cwd=tree, check=True)
    if not survives(tree, chosen.limit):
        sys.exit(f"the quick tests of {commit} fail without any fault")
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    done = {(row["file"], row["number"]) for row in rows}
    for file, number, line in sample(tree / "lbdsl", chosen.count, chosen.seed):
        if (file, number) in done:
            continue
        path, start = tree / file, time.monotonic()
        text = path.read_text(encoding="utf-8")
        path.write_text(mutated(text, number), encoding="utf-8")
        row = {"file": file, "line": line, "number": number, "survived": survives(tree, chosen.limit)}
        path.write_text(text, encoding="utf-8")
        rows.append({**row, "seconds": round(time.monotonic() - start, 1)})
        with rows_file.open("a") as kept:
            kept.write(json.dumps(rows[-1]) + "\n")
        alive = sum(row["survived"] for row in rows)
        print(
            f"{len(rows)}/{chosen.count}  {file}:{line} {'SURVIVED' if row['survived'] else 'found'}  {alive} survived",
            flush=True,
        )
    alive = sum(row["survived"] for row in rows)
    print(f"{commit}: {len(rows) - alive} of {len(rows)} found, score {(len(rows) - alive) / max(1, len(rows)):.1%}")


if __name__ == "__main__":
    main()
