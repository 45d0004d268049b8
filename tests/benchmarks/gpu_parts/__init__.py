"""Parts that go well or badly, for the tests of the processes that run them."""
