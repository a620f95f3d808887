"""The HTTP process: puts the faces together, keeps the house in order, watches over the workers. No torch."""
