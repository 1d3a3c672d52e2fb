"""Samples made up from what a graph implies about its inputs."""
