"""How much each layer gets under one budget."""
