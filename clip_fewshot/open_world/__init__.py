"""A classifier that says "unknown", groups what it does not know, and learns it."""
