"""The entry point of `dsrun` and `python -m dsrun`: Ctrl-C is an orderly end from here on, also while the command line is imported."""

from dsrun.interrupts import end_at_ctrl_c


def main() -> None:
    """Import the command line and run it."""
    end_at_ctrl_c(_run)


def _run() -> None:
    from dsrun.cli import main

    main()


if __name__ == "__main__":
    main()
