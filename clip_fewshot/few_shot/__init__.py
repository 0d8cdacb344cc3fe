"""Learning from a few labelled pictures: approaches, trainer, study, classifier."""
