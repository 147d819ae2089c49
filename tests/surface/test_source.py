"""What the source may not contain, and what it must: rules that no linter of ours knows.

Which modules the core may import is import-linter's business (pyproject.toml).
"""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import headway

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "headway"
# What the protocol buffer compiler makes is not ours to shape.
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.stem.endswith("_pb2"))
PURE = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in ("core", "algorithms")]

# Torch's draws take a generator as a keyword; without one they use the global stream.
DRAWS = {
    "bernoulli",
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "normal",
    "normal_",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random_",
    "randperm",
    "uniform_",
}
GLOBAL_SEEDS = {"manual_seed", "manual_seed_all", "seed", "set_rng_state", "initial_seed"}


def by_path(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def calls(path):
    """The calls in a file: dotted name, node, place."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node, f"{path.relative_to(ROOT)}:{node.lineno}"


@by_path(MODULES)
def test_nothing_is_unpickled(path):
    for name, node, place in calls(path):
        assert name not in ("torch.load", "torch.save"), f"{place}: pickles; use safetensors"
        if name.rpartition(".")[2] == "load" and "allow_pickle" in ast.unparse(node):
            assert "allow_pickle=False" in ast.unparse(node), place
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert names.isdisjoint({"pickle", "cloudpickle", "dill", "joblib", "shelve"})
            assert not (node.__dict__.get("module") == "torch" and {"load", "save"} & names)


@by_path(MODULES)
def test_every_random_stream_has_a_seed(path):
    for name, node, place in calls(path):
        if name.endswith(("default_rng", "SeedSequence", "PCG64")):
            assert node.args or node.keywords, f"{place}: seeded by the machine"
        assert not name.startswith("random."), f"{place}: the global stream"
        legacy = re.fullmatch(r"(np|numpy)\.random\.[a-z]\w*", name)
        assert not legacy or name.endswith("default_rng"), f"{place}: NumPy's global stream"


@by_path(PURE)
def test_the_core_and_the_algorithms_draw_only_from_streams_they_are_given(path):
    for name, node, place in calls(path):
        last = name.rpartition(".")[2]
        keywords = {keyword.arg for keyword in node.keywords}
        if name.startswith("torch."):
            assert last not in GLOBAL_SEEDS, f"{place}: changes the global stream"
        if last in DRAWS and (name.startswith("torch.") or last.endswith("_")):
            assert "generator" in keywords, f"{place}: draws from the global stream"


@by_path(PURE)
def test_the_core_and_the_algorithms_open_no_file(path):
    for name, _, place in calls(path):
        assert name not in ("open", "print", "input"), place


@by_path(MODULES)
def test_a_file_has_one_subject(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines < 500


@by_path(MODULES)
def test_annotations_are_not_evaluated(path):
    if tree(path).body[1:]:
        assert "from __future__ import annotations" in path.read_text(encoding="utf-8")


@by_path(MODULES)
def test_everything_public_has_a_docstring(path):
    assert ast.get_docstring(tree(path)), "the module says what belongs in it"
    missing = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for node in public_definitions(tree(path))
        if not ast.get_docstring(node)
    ]
    assert not missing


@by_path(MODULES)
def test_exported_functions_document_their_arguments(path):
    undocumented = []
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name in exported(path):
            docstring = ast.get_docstring(node) or ""
            undocumented += [
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name}({argument.arg})"
                for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if not re.search(rf"^\s*`?\*?\*?{argument.arg}`?( \(.*\))?:", docstring, re.M)
            ]
    assert not undocumented


def exported(path):
    """What users can reach in a file: what its package re-exports, or all of a named module."""
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    if dotted in headway._HOME.values():
        (names,) = [
            ast.literal_eval(node.value)
            for node in tree(path).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        return set(names)
    return {
        alias.name
        for node in tree(path.with_name("__init__.py")).body
        if isinstance(node, ast.ImportFrom) and node.module == dotted
        for alias in node.names
    }


def public_definitions(scope):
    """Public functions and classes, and the public methods of those classes."""
    for node in scope.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        if node.name.startswith("_") or any(
            decorator.endswith(("overload", "override", ".setter")) for decorator in decorators
        ):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node)


def repository_files():
    """Every text file that is in the repository or would be added to it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def test_the_repository_names_no_machine():
    somewhere = re.compile(
        r"(?<![\w.:/])/(?:home|root|Users|work|opt)/[\w.]"  # a path on one machine
        r"|[A-Z]:\\\\?Users"
        r"|https?://[\w.-]*(?:pypi|pythonhosted|npmjs|crates)\b"  # a registry's host
        r"|--(?:extra-)?index-url[= ]\S*//"
    )
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for name, text in repository_files()
        for match in somewhere.finditer(text)
        if name != "tests/surface/test_source.py"
    ]
    assert not found


def test_torch_is_pinned_in_one_place():
    pins = [
        name
        for name, text in repository_files()
        if re.search(r"torch\s*==\s*\d", text) and not name.endswith(".md")
    ]
    assert pins == ["constraints.txt"]
