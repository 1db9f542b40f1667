"""Make a data set of two CSV files and train TIGER on it.

The same on the command line:

    recbole-genrec prepare examples/own_data/visits.csv --items examples/own_data/articles.csv \
        --name shop
    recbole-genrec run --model=TIGER --dataset=shop --codebook_size=8 --n_beams=10 --topk=[5,10]
"""

import sys
from pathlib import Path

from recbole_genrec import run
from recbole_genrec.prepare.column_names import ColumnNames
from recbole_genrec.prepare.own_files import prepare_own_files

HERE = Path(__file__).parent

# Columns are found by their names and contents; ColumnNames names those that are not.
if not Path("dataset/shop").is_dir():
    prepare_own_files(
        HERE / "visits.csv",
        HERE / "articles.csv",
        Path("dataset/shop"),
        ColumnNames(),
        k_core=None,
        separator=None,
    )
small = {"codebook_size": 8, "n_beams": 10, "topk": [5, 10], "train_batch_size": 32}
result = run(model="TIGER", dataset="shop", config_dict=small, command_line=sys.argv[1:])
print("test:", dict(result["test_result"]))
