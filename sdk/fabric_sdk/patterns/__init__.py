"""Ways to work together, each with its guarantee in its name: a call is answered at most once, or fails clearly."""
