"""`python -m crosstrain`: the `crosstrain` command, also where it is not on the path."""

from crosstrain.cli import main

if __name__ == "__main__":
    main()
