"""Train TIGER on item vectors of your own: here the genres and the year of ml-100k's movies.

Any .npy file of shape [items, width] will do, with a .tokens file beside it that names the item of
every row. Settings can follow: python examples/own_vectors.py --epochs=2
"""

import csv
import sys
from pathlib import Path

import numpy as np
import recbole

from recbole_genrec import run

ITEMS = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.item"

with open(ITEMS, encoding="utf-8", newline="") as file:
    movies = list(csv.DictReader(file, delimiter="\t"))
genres = sorted({genre for movie in movies for genre in movie["class:token_seq"].split()})
vectors = np.zeros((len(movies), len(genres) + 1), dtype=np.float32)
for row, movie in zip(vectors, movies, strict=True):
    row[[genres.index(genre) for genre in movie["class:token_seq"].split()]] = 1
    year = movie["release_year:token"]
    row[-1] = (int(year) - 1990) / 10 if year.isdigit() else 0

np.save("movies.npy", vectors)
Path("movies.tokens").write_text("\n".join(movie["item_id:token"] for movie in movies) + "\n")

result = run(
    model="TIGER",
    dataset="ml-100k",
    config_dict={"item_features": {"movies": "movies.npy"}},
    command_line=sys.argv[1:],
)
print("test:", dict(result["test_result"]))
