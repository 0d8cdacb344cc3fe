"""How a result is measured: fresh support sets, one look at the sealed test set, results with intervals."""
