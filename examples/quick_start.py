"""Train TIGER on ml-100k and print its test metrics.

Settings can follow: python examples/quick_start.py --epochs=2 --seed=7
"""

import sys

from recbole_genrec import run

result = run(model="TIGER", dataset="ml-100k", command_line=sys.argv[1:])
print("test:", dict(result["test_result"]))
print("weights:", result["checkpoint"])
