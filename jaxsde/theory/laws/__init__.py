"""Laws with a density, Gibbs' before all, and how far one is from another.

Can exp(−L/T) be normalised (`confine`), its integrals (`integrals`), the law itself (`gibbs`); the density of an SDE (`density`);
distances to Gibbs and the nearest temperature, of Gaussians (`gaussian`) and of densities (`temperature`).
"""
