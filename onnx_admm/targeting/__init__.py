"""How a cost budget is met: what is on offer for each layer, the rounds of the search, the reasons given."""
