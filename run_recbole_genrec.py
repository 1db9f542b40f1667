"""Train and test a model: the command `recbole-genrec run` without an installation."""

import sys

from recbole_genrec.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
