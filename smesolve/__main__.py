"""`python -m smesolve` is the command `smesolve`."""

from smesolve.study.command_line import main

if __name__ == "__main__":  # workers that are started afresh import the main module
    raise SystemExit(main())
