"""What the owner does with an artifact that has arrived, pulled or pushed.

The artifact is verified, then merged or installed; then its receipt and its change are written.
"""
