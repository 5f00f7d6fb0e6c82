"""Documents to tokens on disk to batches."""
