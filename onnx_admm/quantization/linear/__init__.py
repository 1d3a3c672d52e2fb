"""Dynamic and weight-only int8 of linear layers that have no static integers."""
