"""Training and evaluation of the demo checkpoint: a tiny Qwen-Image-Edit that runs on a laptop.

`python -m demo.train` makes the weights, `python -m demo.evaluate` measures them. Nothing in
`src/retouch` imports this package; the server only reads the checkpoint folder it writes.
"""
