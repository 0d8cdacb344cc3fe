"""From pictures and texts to features, the frozen layers run once."""
