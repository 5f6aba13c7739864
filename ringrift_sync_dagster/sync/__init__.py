"""The use cases: what to move now, between whom, down the one path; facade, daemon and router stand on these."""
