"""The law of an SDE on a grid, for any Σ(Φ).

Its generator as jumps (`lattice`), laws of such jumps (`markov`), one grid and several (`levels`, `refined`), the box around them
(`enclose`), what follows (`distance`, `fokker_planck`), and its currents (`currents`).
"""
