"""Transport only: gRPC, HTTP and the command line around `engine`; nothing imports it."""
