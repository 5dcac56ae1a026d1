"""The shapes and types that the mathematics annotates are checked while the tests run (jaxtyping's import hook with beartype).

Statistics take NumPy as well as JAX arrays, and the tests of constructors and metrics hand in wrong types on purpose, to see
which sentence comes back: these modules are left as they are.
"""

from jaxtyping import install_import_hook

install_import_hook([f"jaxsde.{name}" for name in ("problems", "dynamics", "engine")], "beartype.beartype")
