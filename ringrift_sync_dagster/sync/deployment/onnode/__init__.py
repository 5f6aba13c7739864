"""The program that puts the agent on a node, keeps it running and removes it.

It runs on the node, from one zip file, with the standard library of Python 3.11 alone: nothing of the package is there
when it starts. That is why its files start processes and read clocks themselves.
"""
