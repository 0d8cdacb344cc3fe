"""What all commands stand on: options out of dataclasses, exit codes, what is opened and what is printed."""
