"""The parts of `scripts/train_demo_model.py`, which says what they are for."""
