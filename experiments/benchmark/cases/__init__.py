"""The cases: each module has ``rows(options) -> Iterator[Row]``, which yields each line once it is measured."""
