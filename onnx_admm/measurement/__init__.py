"""What the outputs say when weights or graphs are exchanged."""
