"""What `invoke bench NAME` runs: our service beside what one would use otherwise, in one run, as ratios."""
