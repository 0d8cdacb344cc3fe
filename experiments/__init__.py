"""Commands: each turns options into calls of the public API and a report."""
