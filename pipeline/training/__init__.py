"""Training: one loop, whatever the network, the loss and the number of workers."""
