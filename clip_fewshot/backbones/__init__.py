"""Encoders of pictures and texts, in layers that can be cut."""
