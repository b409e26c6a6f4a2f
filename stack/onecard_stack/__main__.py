"""`python -m onecard_stack`: the same as the command `onecard`."""

from onecard_stack.cli import main

if __name__ == "__main__":
    main()
