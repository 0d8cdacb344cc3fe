"""What an open-world classifier has seen over weeks, and every decision: one SQLite file, see ``store.py``."""
