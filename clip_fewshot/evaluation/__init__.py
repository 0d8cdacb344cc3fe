"""Metrics, and intervals around them. Arrays in, numbers out."""
