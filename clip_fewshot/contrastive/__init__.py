"""Contrastive training of image and text encoders, from one process to a cluster."""
