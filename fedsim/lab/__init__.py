"""The lab: the only place that sees every side. It runs experiments, attacks, and scores them."""
