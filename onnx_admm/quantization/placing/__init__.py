"""Which units are integer: what a placement is, its estimated latency, and the search of the fastest."""
