"""Published recipes, as they were written and as this package does them; :mod:`experiments.replicate` runs them."""
