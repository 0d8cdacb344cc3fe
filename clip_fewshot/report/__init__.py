"""results.json, one self-contained report.html, and the table for the terminal."""
