"""Train TIGER and RecBole's SASRec on the same split and print one table.

Settings can follow: python examples/compare_with_sasrec.py --epochs=2
"""

import sys

from recbole_genrec import compare

records, table = compare(["TIGER", "SASRec"], dataset="ml-100k", command_line=sys.argv[1:])
for record in records:
    print(record["model"], "test NDCG@10:", record["test_result"]["ndcg@10"])
print("table:", table)
