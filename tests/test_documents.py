"""The commands and snippets of README and docs do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_genrec.config.reading import parse_command_line
from recbole_genrec.config.settings import GenRecConfig
from recbole_genrec.quick_start import compare

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "README_CN.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHORT = {
    "--show_progress": False,
    "--teacher_epochs": 1,
    "--tokenizer_epochs": 1,
    "--tokenizer_warmup_epochs": 0,
    "--integration_epochs": 1,
    "--finetune_epochs": 1,
    "--MAX_ITEM_LIST_LENGTH": 5,
    "--hidden_size": 16,
    "--n_layers": 1,
    "--train_batch_size": 1024,
}
START = "python run_recbole_genrec.py"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_commands(page: Path) -> list[list[str]]:
    """The arguments of every command of a page that runs an experiment."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    lines += [line for line in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))]
    found = []
    for line in lines:
        _, start, rest = line.replace("recbole-genrec run", START).partition(START)
        if start and "..." not in rest:
            found.append(shlex.split(rest, comments=True))
    return found


COMMANDS = [
    pytest.param(arguments, id=f"{page.relative_to(ROOT)}: {' '.join(arguments)}")
    for page in PAGES
    for arguments in run_commands(page)
]
# TIGER's own page has the shortest of several commands that run it.
IN_SECONDS = {
    tuple(command.values[0])
    for command in COMMANDS
    if "--dataset=ml-100k" in command.values[0] and len(command.values[0]) == 2
}


def names_of(arguments: list[str]) -> list[str]:
    return parse_command_line(arguments).get("model", "UniGRec").split(",")


@pytest.mark.parametrize("arguments", COMMANDS)
def test_settings_of_every_command_are_known(arguments):
    rest = [argument for argument in arguments if not argument.startswith("--model=")]
    names = names_of(arguments)
    for name in names:
        assert GenRecConfig(name, command_line=rest, is_shared=len(names) > 1)["model"] == name


@pytest.mark.slow
@pytest.mark.parametrize("arguments", sorted(IN_SECONDS), ids=" ".join)
def test_commands_on_the_data_that_recbole_brings_run(arguments, tmp_path, monkeypatch):
    """Each with one epoch, where the page has all."""
    monkeypatch.chdir(tmp_path)
    names = names_of(list(arguments))
    settings = {**SHORT, "--epochs": 2 if "ETEGRec" in names else 1}  # a cycle has two epochs
    settings |= {} if "counter_size" in unset(names) else {"--counter_size": 2048}
    rest = [argument for argument in arguments if not argument.startswith("--model=")]
    given = {argument.partition("=")[0] for argument in rest}
    known = GenRecConfig(names[0], command_line=rest, is_shared=True).final_config_dict
    extra = [
        f"{name}={value}"
        for name, value in settings.items()
        if name not in given and name.removeprefix("--") in known
    ]
    records, _ = compare(names, command_line=rest + extra)
    assert [record["model"] for record in records] == names
    assert all(0 < record["test_result"]["recall@10"] < 1 for record in records), records


def unset(names: list[str]) -> set[str]:
    """The settings that are 0 for one of these models."""
    files = [ROOT / "properties" / "model" / f"{name}.yaml" for name in names]
    layers = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return {key for layer in layers for key, value in layer.items() if value == 0}


@pytest.mark.slow
def test_the_python_snippet_of_the_readme_runs(tmp_path, monkeypatch):
    """As it stands but for the settings that make it short."""
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks(ROOT / "README.md", "python")
    short = {name.removeprefix("--"): value for name, value in SHORT.items()}
    short = {key: short[key] for key in short if not key.startswith(("integration", "finetune"))}
    given = str({**short, "counter_size": 2048, "epochs": 1})
    assert snippet.count('{"epochs": 1}') == 1
    scope: dict[str, Any] = {}
    exec(compile(snippet.replace('{"epochs": 1}', given), "README.md", "exec"), scope)
    assert scope["result"]["test_result"]["recall@10"] > 0
    assert scope["model"].n_items == scope["dataset"].item_num


NAMED = [*PAGES, ROOT / "dataset" / "README.md"]
OTHERS = ("LETTER-TIGER/", "RQ-VAE/")  # folders of released code
# Settings of data cards, of RecBole alone, of torch and of the shell.
OTHER_KEYS = {"k_core", "separator", "checkpoint", "gpu_id", "OMP_NUM_THREADS"}


def code_spans(page: Path) -> list[str]:
    """The words in backticks of a page, without its fenced blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    return re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", NAMED, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_files_of_a_page_exist(page):
    roots = [ROOT, ROOT / "recbole_genrec", page.parent]
    paths = [path for span in code_spans(page) for path in re.findall(r"^[\w./-]+/\w+\.py\b", span)]
    ours = [path for path in paths if not path.startswith(OTHERS)]
    assert [path for path in ours if not any((root / path).is_file() for root in roots)] == []


@pytest.mark.parametrize("page", NAMED, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_of_a_page_have_a_default(page):
    """In the form `name: value` or `--name=value`."""
    spans = [re.match(r"--(\w+)=|([a-z][a-zA-Z_]*): \S", span) for span in code_spans(page)]
    names = {span[1] or span[2] for span in spans if span}
    assert names - keys_of_properties() - OTHER_KEYS == set()


def keys_of_properties() -> set[str]:
    """Every key of RecBole's and our property files."""
    known = set(GenRecConfig("TIGER").final_config_dict)
    for file in (ROOT / "properties").rglob("*.yaml"):
        known |= set(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return known


def test_both_readmes_have_the_same_commands():
    english, chinese = (blocks(ROOT / name, "bash") for name in ("README.md", "README_CN.md"))
    assert [without_comments(block) for block in english] == [
        without_comments(block) for block in chinese
    ]
    assert blocks(ROOT / "README.md", "python") == blocks(ROOT / "README_CN.md", "python")


def without_comments(block: str) -> list[str]:
    return [line.partition("#")[0].rstrip() for line in block.splitlines()]


def test_links_of_the_pages_at_the_top_lead_somewhere():
    for page in ROOT.glob("*.md"):
        targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
        for target in targets:
            assert target.startswith("https://") or (ROOT / target).exists(), (page.name, target)


def test_ci_runs_the_commands_of_the_readme():
    """With one epoch, and torch installed once."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    main_job, tests = (block for block in blocks(ROOT / "README.md", "bash")[:2])
    for block in (main_job, tests):
        torch, _, last = (part.strip() for part in block.split("&&"))
        assert torch.split()[-1] in script and last in script
