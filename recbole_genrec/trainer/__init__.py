"""Training: stages, optimizers, checkpoints, resume and evaluation."""
