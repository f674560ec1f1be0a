"""`python -m dsrun` is the same program as `dsrun`."""

from dsrun.cli import main

if __name__ == "__main__":
    main()
