"""One file per revision, oldest first: what each version of the program changed in the state database."""
