"""Pictures with labels: reading them safely, the built-in sets, and the splits that keep the test set sealed."""
