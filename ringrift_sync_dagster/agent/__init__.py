"""The node's service: serves artifacts, takes pushes, calls the kit, and tells what the node has.

Importing the package imports nothing: its worker processes are started with ``agent.worker`` and the kit alone.
"""
