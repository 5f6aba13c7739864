"""How the agent comes onto a node: what is brought, what is decided from what is found there, and the way to do it."""
