"""What the tests share. Each module says what it is for; ``conftest.py`` loads those that are pytest plugins."""
