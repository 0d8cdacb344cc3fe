"""Pictures with captions, as contrastive training is fed."""
