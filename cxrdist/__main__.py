"""`python -m cxrdist`: the command line."""

from cxrdist.cli import main

if __name__ == "__main__":
    main()
