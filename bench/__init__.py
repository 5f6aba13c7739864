"""Programs that measure: our figures beside those of the programs that people would use otherwise, in the same run.

``python -m bench`` runs everything; each program runs alone too, such as ``python bench/games.py --only merge``.
"""
