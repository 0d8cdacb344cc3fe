"""Contrastive training over several processes and machines."""
