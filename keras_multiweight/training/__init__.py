"""Many members, one `fit`: each member trains as it would alone.

Read in the order of one training step: `batches.py` (what belongs to which member), `scores.py` (each member's loss and
metrics), `optimizers.py` and `updates.py` (each member's update), then `trainer.py` (Keras's methods), `history.py`,
`steps.py` (many steps in one program) and `callbacks.py`.
"""
