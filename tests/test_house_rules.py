"""The rules of the code base that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recbole
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "recbole_genrec"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [
    ROOT / "setup.py",
    ROOT / "run_recbole_genrec.py",
    *sorted((ROOT / "benchmarks").glob("*.py")),
]
FILES = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *SCRIPTS]
# The order of imports: a module imports modules of a lower rank, or of its own folder.
RANKS = {
    name: rank
    for rank, names in enumerate(
        (
            ("errors",),
            ("storage",),
            ("compat",),
            ("runtime",),
            ("config",),
            ("data", "semantic_ids"),
            ("prepare",),
            ("tokenizer", "seq2seq", "features"),
            ("model",),
            ("trainer",),
            ("teacher", "results"),
            ("quick_start",),
            ("cli",),
        )
    )
    for name in names
}
# The first use of a public data set's name downloads it.
USERS_OF_PREPARE = {"recbole_genrec/cli.py", "recbole_genrec/data/files.py"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            assert node.level == 0, f"{name_of(file)} imports relatively"
    return found


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_and_functions_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(parse(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            n_lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert n_lines <= 40, f"{name_of(file)}: {node.name} has {n_lines} lines"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_imports_point_one_way(file):
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    if own == "__init__":
        return
    assert own in RANKS, f"{own} is missing in the order of imports"
    for module in imports_of(file):
        part = part_of(module)
        if module.split(".")[0] != "recbole_genrec" or not part or part == own:
            continue
        if part == "prepare":
            assert name_of(file) in USERS_OF_PREPARE, f"{name_of(file)} imports {module}"
        else:
            assert RANKS[part] < RANKS[own], f"{name_of(file)} imports {module}"


def test_how_it_works_has_the_order_of_imports():
    page = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(cli -> [^`]+)`", page)
    shown = [set(re.findall(r"\w+", names)) for names in reversed(line.split("->"))]
    ranks = sorted(set(RANKS.values()))
    assert shown == [{name for name in RANKS if RANKS[name] == rank} for rank in ranks]


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_ray_and_recboles_quick_start_stay_out(file):
    assert not {
        module
        for module in imports_of(file)
        if module.split(".")[0] == "ray" or module.startswith("recbole.quick_start")
    }


@pytest.mark.parametrize(
    "file", [file for file in MODULES if file.name != "__init__.py"], ids=name_of
)
def test_every_module_has_its_test_file(file):
    mirrored = ROOT / "tests" / file.relative_to(PACKAGE).parent / f"test_{file.name}"
    assert mirrored.is_file(), f"{name_of(mirrored)} is missing"
    assert any(
        isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for node in ast.walk(parse(mirrored))
    )


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_nothing_is_printed_and_settings_have_no_second_default(file):
    for node in ast.walk(parse(file)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called != "print", f"{name_of(file)}:{node.lineno} prints"
        assert not (called.endswith("config.get") or called.endswith("final_config_dict.get")), (
            f"{name_of(file)}:{node.lineno}"
        )
        if called == "getattr" and len(node.args) == 3:
            assert not ast.unparse(node.args[0]).endswith("config"), (
                f"{name_of(file)}:{node.lineno}"
            )


def test_no_module_is_a_drawer():
    words = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [name_of(file) for file in PACKAGE.rglob("*") if file.stem in words]


DECLARING = {"flag", "hidden_sizes", "list_of", "number", "one_of", "optional", "text", "whole"}
DECLARING |= {"_clipping", "_gpus", "_list_lengths", "_metrics", "either", "mapping"}


def declared_names(module: ast.Module) -> list[ast.AST]:
    """The keys of dictionaries whose values declare settings."""
    return [
        key
        for node in ast.walk(module)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values)
        if isinstance(value, ast.Call) and ast.unparse(value.func) in DECLARING
    ]


def string_constants() -> set[str]:
    """The strings of all modules, except the names by which settings are declared."""
    found = set()
    for module in map(parse, MODULES):
        declared = {id(node) for node in declared_names(module)}
        found |= {
            node.value
            for node in ast.walk(module)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in declared
        }
    return found


def test_every_setting_is_read_somewhere():
    """The package has it as a string constant, or RecBole reads it as config["key"]."""
    source = "\n".join(
        file.read_text(encoding="utf-8") for file in Path(recbole.__file__).parent.rglob("*.py")
    )
    read = (
        string_constants()
        | set(re.findall(r"config(?:_dict)?\[\s*[\"'](\w+)[\"']", source))
        | set(re.findall(r"config\.(\w+)", source))
    )
    read |= set(
        re.findall(
            r"_get_field_from_config|[\"'](\w+_FIELD|threshold|normalize_all|\w+_num_interval)[\"']",
            source,
        )
    )
    unread = {
        f"{name_of(file)}: {key}"
        for file in sorted((ROOT / "properties").rglob("*.yaml"))
        for key in yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if key not in read and file.name != "sources.yaml"
    }
    assert not unread


def test_property_files_have_100_columns():
    for file in (ROOT / "properties").rglob("*.yaml"):
        assert max(map(len, file.read_text(encoding="utf-8").splitlines())) <= 100, name_of(file)


def test_recipes_only_change_settings_that_have_a_default():
    recboles = Path(recbole.__file__).parent / "properties"
    shared = (
        ROOT / "properties" / "overall.yaml",
        ROOT / "properties" / "generative.yaml",
        recboles / "overall.yaml",
    )
    overall = {key for file in shared for key in yaml.safe_load(file.read_text(encoding="utf-8"))}
    models = {
        file.stem.lower(): file
        for folder in (recboles, ROOT / "properties")
        for file in (folder / "model").glob("*.yaml")
    }
    for recipe in (ROOT / "properties" / "recipe").glob("*.yaml"):
        model = models[recipe.stem.split("_")[0]]
        known = overall | set(yaml.safe_load(model.read_text(encoding="utf-8")))
        assert not set(yaml.safe_load(recipe.read_text(encoding="utf-8"))) - known, name_of(recipe)


IMPORT_EVERYTHING = """
import importlib, io, logging, os, pkgutil, random, sys, warnings
import numpy, torch, yaml, pandas
import recbole.config, recbole.data, recbole.evaluator, recbole.trainer
import recbole.model.sequential_recommender
import sklearn.cluster, sklearn.decomposition, sklearn.feature_extraction.text
import scipy.optimize, scipy.sparse

def state():
    root = logging.getLogger()
    return {
        "environment": dict(os.environ), "numpy": set(vars(numpy)), "folder": os.getcwd(), "argv":
        list(sys.argv),
        "seeds": (random.getstate(), repr(numpy.random.get_state()),
        torch.get_rng_state().tolist()),
        "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.backends.cudnn.benchmark,
                  torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()),
        "logging": (list(root.handlers), root.level), "warnings": list(warnings.filters), "streams":
        (id(sys.stdout), id(sys.stderr)),
        "yaml": {key: list(rules) for key, rules in
        yaml.FullLoader.yaml_implicit_resolvers.items()},
        "files": sorted(os.listdir(".")), "path": list(sys.path),
    }

before = state()
import recbole_genrec
names = [module.name for module in pkgutil.walk_packages(recbole_genrec.__path__,
"recbole_genrec.")]
for name in names:
    importlib.import_module(name)
after = state()
changed = [key for key in before if before[key] != after[key]]
assert len(names) > 5, names
assert not changed, changed
assert "ray" not in sys.modules
"""


def test_importing_everything_changes_no_global_state(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{IMPORT_EVERYTHING}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
