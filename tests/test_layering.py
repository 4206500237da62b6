"""Imports run one way, in no circles, and the mathematics needs no Dask."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = "hyperlearn_dask"

_GROUND = {"errors", "config", "backend", "storage", "compiling"}
# What each part may import, besides itself.
ALLOWED = {
    "errors": set(),
    "compiling": set(),
    "backend": {"errors"},
    "config": {"errors"},
    "storage": {"errors"},
    "monitor": {"errors"},
    "cluster": {"errors", "monitor"},
    "hypergraph": _GROUND,
    "factorization": _GROUND | {"hypergraph"},
    "training": _GROUND | {"hypergraph", "factorization", "monitor"},
    "use": _GROUND | {"hypergraph", "factorization"},
    "tuning": _GROUND | {"hypergraph", "factorization", "training", "use"},
    "estimator": _GROUND | {"hypergraph", "factorization", "training", "use"},
    LIBRARY: {"hypergraph", "estimator"},  # the package's front door
    "pipeline": _GROUND | {"cluster", "monitor", "hypergraph", "factorization", "training", "use", "tuning"},
}

WITH_DASK = {
    f"{LIBRARY}.cluster.attach",
    f"{LIBRARY}.cluster.certificates",
    f"{LIBRARY}.cluster.local",
    f"{LIBRARY}.cluster.schedulers",
    f"{LIBRARY}.cluster.serve",
    f"{LIBRARY}.hypergraph.ingest",
    f"{LIBRARY}.hypergraph.tasks",  # what ingestion submits
    f"{LIBRARY}.hypergraph.neighbors",
    f"{LIBRARY}.hypergraph.interop",
    f"{LIBRARY}.monitor.on_scheduler",
    f"{LIBRARY}.monitor.post",
    f"{LIBRARY}.training.workers.distributed",
    f"{LIBRARY}.training.workers.handles",
    f"{LIBRARY}.training.workers.letters",
    f"{LIBRARY}.training.workers.on_worker",
    f"{LIBRARY}.training.workers.outbox",
    f"{LIBRARY}.training.workers.watch",
    f"{LIBRARY}.tuning.pools",
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of ours by its dotted name."""
    found = {}
    for folder in (LIBRARY, "pipeline"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


def imports(module: str, *, typing_only: bool = True) -> Iterator[str]:
    """Dotted names a module imports anywhere; those for type checkers only if wanted."""
    for node in walk(modules()[module], typing_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules() else str(node.module)


def walk(node: ast.AST, typing_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        test = getattr(child, "test", None)
        if not typing_only and isinstance(test, ast.Name) and test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from walk(child, typing_only)


def part_of(module: str) -> str:
    """The part of the house a module is in."""
    parts = module.split(".")
    return parts[1] if parts[0] == LIBRARY and len(parts) > 1 else parts[0]


def test_the_walk_sees_the_house() -> None:
    names = set(modules())
    assert {f"{LIBRARY}.errors", f"{LIBRARY}.factorization.model", "pipeline.cli"} <= names
    assert f"{LIBRARY}.errors" in set(imports("pipeline.cli"))
    assert f"{LIBRARY}.training.fit" in set(imports("pipeline.stages"))  # imported as a name of it


@pytest.mark.parametrize("module", modules())
def test_imports_run_one_way(module: str) -> None:
    part = part_of(module)
    assert part in ALLOWED, f"{module} is in no known part; give it a place in ALLOWED"
    for imported in imports(module):
        if imported.split(".")[0] in (LIBRARY, "pipeline"):
            other = part_of(imported)
            assert other == part or other in ALLOWED[part], f"{module} imports {imported}"


def test_no_file_is_imported_in_a_circle() -> None:
    graph = {m: {i for i in imports(m, typing_only=False) if i in modules() and i != m} for m in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", modules())
def test_dask_only_where_it_belongs(module: str) -> None:
    top = {imported.split(".")[0] for imported in imports(module, typing_only=False)}
    if top & {"dask", "distributed"}:
        assert module in WITH_DASK
    if "dask_cuda" in top:
        assert module == f"{LIBRARY}.cluster.local"
    if top & {"cupy", "cupyx"}:
        assert module in {f"{LIBRARY}.backend", f"{LIBRARY}.factorization.kernels.cuda"}


def test_the_mathematics_needs_only_numpy_scipy_and_numba() -> None:
    script = """
import importlib, pkgutil, sys

blocked = {"dask", "distributed", "zarr", "pyarrow", "sklearn", "sparse", "rich", "click", "faiss", "cupy"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import hyperlearn_dask.factorization as package

for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("kernels.cuda"):
        importlib.import_module(module.name)
        print(module.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"{LIBRARY}.factorization.model" in done.stdout.split()


def test_training_in_process_runs_on_a_bare_machine_and_never_imports_cupy() -> None:
    script = """
import sys

blocked = {"dask", "distributed", "zarr", "pyarrow", "sklearn", "rich", "faiss", "pandas"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from hyperlearn_dask.training.fit import fit
from tests.training.made_up import two_relations, two_relations_problem

hypergraph = two_relations()
model = fit(hypergraph, *two_relations_problem(hypergraph, sweeps=2))
print(len(model.history), "cupy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "False"]


def test_nothing_imports_cupy_before_a_device_is_asked_for() -> None:
    script = """
import importlib, pkgutil, sys

class Watched:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cupy", "cupyx", "rmm", "dask_cuda"):
            importer = sys._getframe(1)
            while "importlib" in importer.f_globals["__name__"]:
                importer = importer.f_back
            who = importer.f_globals["__name__"]  # other libraries look whether it is there
            assert not who.startswith(("hyperlearn_dask", "pipeline")), f"{who} imports {name}"

sys.meta_path.insert(0, Watched())
for package in map(importlib.import_module, ("hyperlearn_dask", "pipeline")):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "hyperlearn_dask.factorization.kernels.cuda":
            importlib.import_module(module.name)
            print(module.name)
from hyperlearn_dask.backend import check_device, to_device

check_device("cpu")
to_device(None, "cpu")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {f"{LIBRARY}.training.workers.on_worker", "pipeline.stages"} <= set(done.stdout.split())


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    script = """
import sys
import pipeline.cli
heavy = {"dask", "distributed", "zarr", "sklearn", "numpy", "scipy", "numba", "pyarrow", "rich"}
print(*heavy & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
