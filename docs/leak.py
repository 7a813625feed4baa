"""A server that does not close the connections that its client has closed: one a second, of 256 descriptors."""
import ctypes, os, resource, socket, time


def prctl(*arguments):
    ctypes.CDLL(None).prctl(*arguments, 0, 0, 0)


_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
listener = socket.create_server(("127.0.0.1", 0))

if os.fork() == 0:
    prctl(15, b"leaky-client")
    # It ends with the server.
    prctl(1, 9)
    while True:
        with socket.create_connection(listener.getsockname()):
            time.sleep(1)

prctl(15, b"leaky-server")
leaked = []
while True:
    try:
        leaked.append(listener.accept()[0])
    except OSError as error:
        print(error, flush=True)
        time.sleep(1)
