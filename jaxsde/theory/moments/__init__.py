"""Means and covariances, exact where the loss is quadratic.

When stationary (`stationary`), by epochs (`epochs`, `reshuffling`, `orbits`), before that (`transient`); where they cease to exist
(`edge`; fourth ones: `kurtosis`), and the power law of what is left (`tail`).
"""
