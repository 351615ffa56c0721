"""``python -m shrinkc``: the command line."""

from shrinkc.cli import main

if __name__ == "__main__":
    main()
