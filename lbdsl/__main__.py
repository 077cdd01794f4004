"""`python -m lbdsl`."""

from lbdsl.cli.app import main

if __name__ == "__main__":
    main()
