"""The lung network: its training, masks, and what may be wrong with them."""
