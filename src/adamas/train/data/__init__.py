"""Data: what is read, how rows are shared out, and how they become the network's inputs."""
