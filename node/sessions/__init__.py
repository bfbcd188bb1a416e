"""Sessions: made and ended for the whole cluster (`service`), run on the node that holds the device (`runner`)."""
