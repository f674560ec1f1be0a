"""The entry point of `dsrun` and `python -m dsrun`: Ctrl-C is an orderly end from here on, also while the command line is imported."""

import os


def main() -> None:
    """Import the command line and run it."""
    try:
        from dsrun.interrupts import end_at_ctrl_c

        end_at_ctrl_c(_run)
    except KeyboardInterrupt:  # during that import
        os.write(2, b"stopped by Ctrl-C\n")
        os._exit(130)


def _run() -> None:
    from dsrun.cli import main

    main()


if __name__ == "__main__":
    main()
