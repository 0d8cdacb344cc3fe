"""Rendered, captioned glyphs and shapes: all that the shipped model ever saw."""
