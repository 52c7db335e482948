"""What the numbers of a verification mean: metrics, cases and reports."""
