"""The ADMM loop and the schedule of its penalty."""
