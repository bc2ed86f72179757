"""Networks and the training loop: plain torch, one process, everything told by arguments."""
