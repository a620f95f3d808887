"""How the packaged image classifier was made from published weights. Not part of the package."""
