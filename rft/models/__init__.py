"""Models: `source` finds them, `memory` reckons what they take, `policy` holds them for training."""
