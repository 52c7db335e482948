"""What reduced precision costs in right answers: a small trained model, its task, and the measurements."""
