import sys

from recbole_genrec.quick_start import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
