"""Where instances live: the contract (`base`), and the stores that come with the library."""
