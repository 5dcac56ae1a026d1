"""The law of a chain on a grid, without simulating it.

One step of it (`step_law`), its transfer operator (`transfer`), the box that holds the law (`box`), the stationary law and its
distances to densities (`chain_law`).
"""
