from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_genrec import cli, quick_start
from recbole_genrec.cli import main
from recbole_genrec.prepare import named, own_files
from recbole_genrec.prepare.catalog import dump_names

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SHOP = "user,item,time\n" + "".join(
    f"u{user},i{(user + step) % 5},{step}\n" for user in range(6) for step in range(5)
)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The working folder, with my.csv and items.csv in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.csv").write_text(SHOP)
    (tmp_path / "items.csv").write_text(
        "item,title\n" + "".join(f"i{item},thing number {item}\n" for item in range(5))
    )
    return tmp_path


def test_prepare_says_what_it_did_and_what_comes_next(shop, capsys):
    assert main(["prepare", "my.csv", "--items", "items.csv", "--name=shop"]) == 0
    captured = capsys.readouterr()
    assert captured.out == (
        "dataset/shop: data_card.json, shop.inter, shop.item\n"
        "6 users, 5 items, 30 interactions\n"
        "next: recbole-genrec run --model=TIGER --dataset=shop\n"
    )
    assert "user = 'user', item = 'item', time = 'time'" in captured.err
    assert (shop / "dataset" / "shop" / "shop.inter").is_file()


def test_the_next_command_fits_the_folder(shop, capsys):
    (shop / "run_recbole_genrec.py").touch()
    assert main(["prepare", "my.csv", "--name=shop", "--data_path=my data"]) == 0
    out = capsys.readouterr().out
    assert (
        "next: python run_recbole_genrec.py --model=TIGER --dataset=shop '--data_path=my data'\n"
        in out
    )


def test_what_is_prepared_runs(shop, capsys):
    main(["prepare", "my.csv", "--items=items.csv", "--name=shop"])
    arguments = shlex.split(
        capsys.readouterr().out.splitlines()[-1].partition("recbole-genrec ")[2]
    )
    assert arguments == ["run", "--model=TIGER", "--dataset=shop"]
    arguments[1] = "--model=Pop"
    assert main([*arguments, "--topk=[3]", "--valid_metric=NDCG@3", "--show_progress=False"]) == 0
    records = [json.loads(path.read_text()) for path in (shop / "saved").glob("*.json")]
    assert [
        (record["n_users"], record["n_items"], record["n_interactions"]) for record in records
    ] == [(6, 5, 30)]


def test_every_flag_reaches_its_argument(shop, monkeypatch):
    called = []
    monkeypatch.setattr(own_files, "prepare_own_files", lambda *given: called.append(given))
    monkeypatch.setattr(cli, "_report", lambda *given: None)
    flags = (
        "--items=i.csv --name=n --user_column=a --item_column=b --time_column=c "
        "--rating_column=d --item_id_column=e --k_core=3"
    )
    assert main(["prepare", "my.csv", *flags.split(), "--data_path=p", "--separator=;"]) == 0
    assert called == [
        (Path("my.csv"), Path("i.csv"), Path("p/n"), ("a", "b", "c", "d", "e"), 3, ";")
    ]
    assert main(["prepare", "my.csv", "--name=n"]) == 0
    assert called[1:] == [(Path("my.csv"), None, Path("dataset/n"), (None,) * 5, None, None)]
    monkeypatch.setenv("HOME", "/home/ann")
    assert main(["prepare", "~/my.csv", "--name=n", "--items=~/i.csv", "--data_path=~/data"]) == 0
    assert called[2][:3] == (
        Path("/home/ann/my.csv"),
        Path("/home/ann/i.csv"),
        Path("/home/ann/data/n"),
    )


def test_a_name_is_a_public_data_set(shop, monkeypatch, capsys):
    called = []

    def prepare(name, data_path, mirror, show_progress):
        called.append((name, Path(data_path), mirror))
        folder = Path(data_path) / name
        folder.mkdir(parents=True)
        (folder / "data_card.json").write_text(
            '{"counts": {"users": 1234, "items": 2, "interactions": 3}}'
        )
        return folder

    monkeypatch.setattr(named, "prepare", prepare)
    assert main(["prepare", "amazon-beauty-2014", "--mirror=http://127.0.0.1:1"]) == 0
    assert called == [("amazon-beauty-2014", Path("dataset"), "http://127.0.0.1:1")]
    assert "1,234 users, 2 items, 3 interactions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("prepar my.csv", ["'prepar'", "use prepare", "run"]),
        ("prepare", ["source", "--help"]),
        ("prepare my.csv --nam=shop", ["--nam=shop"]),
        ("prepare my.csv --name=shop --k_core=five", ["k_core", "'five'"]),
        ("prepare my.csv", ["'my.csv'", "--name"]),
        ("prepare my.csv --name=shop --mirror=x", ["--mirror"]),
        ("prepare my.csv --name=../shop", ["'../shop'", "--data_path"]),
        ("prepare my.csv --name=/shop", ["'/shop'"]),
        ("prepare my.csv --name=", ["''"]),
        ("prepare my.csv --name=..", ["'..'"]),
        ("prepare my.csv --name=ml-100k", ["'ml-100k'", "public"]),
        ("prepare your.csv --name=shop", ["'your.csv'", "no file"]),
        ("prepare folder/your --name=shop", ["'folder/your'"]),
        ("prepare my.csv --items=nowhere.csv --name=shop", ["'nowhere.csv'"]),
        ("prepare my.csv --name=shop --item_column=Item", ["'Item'", "--item_column"]),
        ("prepare amazon-beuty", ["'amazon-beuty'", "did you mean 'amazon-beauty'"]),
        ("prepare amazon-beauty --name=mine --k_core=3", ["--name and --k_core"]),
        ("prepare . --name=shop", [".inter.json"]),
        (
            "prepare x.inter.json --name=shop --items=items.csv --time_column=t",
            ["--items and --time_column"],
        ),
    ],
)
def test_bad_input_is_one_sentence(shop, capsys, arguments, words):
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    sentence = captured.err.splitlines()[-1]
    assert captured.out == ""
    assert all(word in sentence for word in words), captured.err
    assert all(line.startswith("Columns of") for line in captured.err.splitlines()[:-1])
    assert not list(shop.glob("dataset/*"))


def test_bugs_keep_their_traceback_and_ctrl_c_is_short(shop, monkeypatch, capsys):
    monkeypatch.setattr(own_files, "prepare_own_files", lambda *given: int("no number"))
    with pytest.raises(ValueError, match="no number"):
        main(["prepare", "my.csv", "--name=shop"])

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(own_files, "prepare_own_files", interrupted)
    assert main(["prepare", "my.csv", "--name=shop"]) == 130
    assert capsys.readouterr().err == "interrupted: start it again to continue\n"
    monkeypatch.setattr(quick_start, "run", lambda command_line: interrupted())
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "interrupted: add --resume=auto to continue\n"


def test_the_log_is_as_before_afterwards(shop):
    log = logging.getLogger("recbole_genrec")
    before = (log.level, list(log.handlers))
    for arguments in (["--name=shop"], ["--name=shop"]):
        main(["prepare", "my.csv", *arguments])
        assert (log.level, log.handlers) == before


def test_usage_and_help(monkeypatch, capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out.startswith("usage: recbole-genrec prepare NAME")
    assert main(["run", "--help"]) == 0
    assert "--model=NAME" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["prepare", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert (
        "--k_core" in text and "dataset/" in text and dump_names()[-1] in re.sub(r"-\s+", "-", text)
    )
    monkeypatch.setattr(sys, "argv", ["recbole-genrec", "--help"])
    assert main() == 0


def test_run_hands_its_arguments_on(monkeypatch):
    called = []
    monkeypatch.setattr(quick_start, "run", lambda command_line: called.append(command_line))
    assert main(["run", "--model=TIGER", "--epochs=3"]) == 0
    assert called == [["--model=TIGER", "--epochs=3"]]


def test_the_installed_command_is_this_one():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'recbole-genrec = "recbole_genrec.cli:main"' in text


def test_prepare_leaves_models_and_trainers_out():
    heavy = (
        "torch",
        "recbole_genrec.quick_start",
        "recbole_genrec.model",
        "recbole_genrec.trainer",
        "recbole_genrec.data.dataset",
    )
    code = (
        "import sys; from recbole_genrec import cli; cli._prepare_parser(); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_page_on_data_does_what_it_says(tmp_path, monkeypatch, capsys):
    """Its commands, run on its files, give the output that it shows."""
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"`([\w.]+)`:\n\n```(?:csv|json)\n(.*?)```", PAGE, re.DOTALL)
    assert [name for name, _ in files] == [
        "visits.csv",
        "goods.csv",
        "visits.jsonl",
        "Instruments.inter.json",
        "Instruments.item.json",
    ]
    for name, content in files:
        Path(name).write_text(content, encoding="utf-8")
    commands = [
        shlex.split(line)[1:] for line in re.findall(r"^recbole-genrec .*", PAGE, re.MULTILINE)
    ]
    commands = [command for command in commands if Path(command[1]).is_file()]
    assert len(commands) == 3
    shown = []
    for command in commands:
        assert main(command) == 0, capsys.readouterr().err
        shown.append(capsys.readouterr().out)
    outputs = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    written = [
        (tmp_path / "dataset" / "shop" / f"shop.{kind}").read_text(encoding="utf-8")
        for kind in ("inter", "item")
    ]
    assert outputs == [shown[0], *written]
    assert "4 interactions" in shown[1], "item 8 goes with its one interaction"
    assert "2 users, 4 items, 8 interactions" in shown[2]


def test_the_page_on_data_names_every_public_data_set():
    on_the_page = set()
    for row in re.findall(r"^\|.*`amazon-`.*", PAGE, re.MULTILINE):
        words = re.search(r"one of ([a-z -]+)", row).group(1).split()
        suffix = re.search(r"`(-20\d\d)`", row)
        on_the_page.update(f"amazon-{word}{suffix.group(1) if suffix else ''}" for word in words)
    assert on_the_page == set(dump_names())


def test_compare_shows_two_runs_user_by_user(tmp_path, capsys):
    record = {
        "model": "TIGER",
        "dataset": "tiny",
        "dataset_fingerprint": None,
        "test_result": {"recall@1": 0, "recall@2": 0},
    }
    for name, ranks in (("one", ("1", "")), ("other", ("2", "1"))):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
        lines = [
            "user\tn_positives\tranks of hits\t(of 2)",
            *(f"u{user}\t1\t{rank}" for user, rank in enumerate(ranks)),
        ]
        (tmp_path / f"{name}.users.tsv").write_text("\n".join(lines) + "\n")
    paths = [str(tmp_path / "one.json"), str(tmp_path / "other.json")]
    assert main(["compare", *paths, "--metrics=recall@2"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[2]
        == "| recall@2 | 0.5000 | 1.0000 | +0.5000 | +0.0000 to +1.0000 |"
    )
    assert main(["compare", *paths]) == 0
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == [
        "| recall@1",
        "| recall@2",
    ]
    (tmp_path / "other.users.tsv").unlink()
    assert main(["compare", *paths]) == 2
    assert "other.users.tsv', which a run writes beside its checkpoint" in capsys.readouterr().err
