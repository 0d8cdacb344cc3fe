"""How suffixes and heads are trained: optimisers, approaches, the few-shot loop, contrastive training on pairs."""
