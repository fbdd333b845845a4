"""The computations of layers on a CPU, each with the schedule that makes it fast."""
