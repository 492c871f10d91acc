"""The network's layers, one file per box of the paper's diagram."""
