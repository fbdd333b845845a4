"""Split a neural network between a device and a server, and compile both halves."""
