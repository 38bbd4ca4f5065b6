"""`python -m aiossmenv` is the command `aiossmenv`."""

from aiossmenv.cli import main

if __name__ == "__main__":
    main()
