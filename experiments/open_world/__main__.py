import sys

from experiments.open_world import command

if __name__ == "__main__":
    sys.exit(command())
