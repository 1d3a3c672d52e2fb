"""Random samples, from what a graph implies about its inputs."""
