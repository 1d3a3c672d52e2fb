"""How a cost budget is met: the candidates of each layer, the rounds of the search, the reasons given."""
