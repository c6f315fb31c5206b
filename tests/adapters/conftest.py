"""What is in against/ runs in an environment of its own; see test_against.py."""

collect_ignore_glob = ["against/*"]
