"""`python -m onecard_runpod`: the same as the command `onecard-pod`."""

from onecard_runpod.cli import main

if __name__ == "__main__":
    main()
