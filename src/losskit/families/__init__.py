"""One call from its arguments to its result, a module for each family of losses: check, choose a backend, run."""
