"""What people see in Dagster: partitions, assets, checks, jobs, sensors; thin adapters of the use cases in ``sync``."""
