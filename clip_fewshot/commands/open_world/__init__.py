"""A store of pictures, week by week: `clip-fewshot open-world COMMAND STORE ...`."""
