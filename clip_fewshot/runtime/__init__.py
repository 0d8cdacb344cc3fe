"""What every room stands on: seeds, devices, worker processes, durable files, cached rows."""
