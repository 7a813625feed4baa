"""A program that gets TCP wrong in four ways."""
import ctypes, socket, sys, time
ctypes.CDLL(None).prctl(15, b"misbehave", 0, 0, 0)

listener = socket.create_server(("127.0.0.1", 0))

# 1. Half-close, then close() with the answer unread: an RST instead of a FIN.
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
client.shutdown(socket.SHUT_WR)
server.sendall(b"answer")
client.recv(1, socket.MSG_PEEK)
client.close()
server.close()

# 2. Nobody listens.
try:
    socket.create_connection(("127.0.0.1", 9))
except ConnectionRefusedError:
    pass

# 3. The peer closes, the server never does.
leaked = []
for _ in range(5):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    leaked.append(server)
    client.close()

# 4. A TCP option on a Unix socket.
unix = socket.socket(socket.AF_UNIX)
try:
    unix.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
except OSError:
    pass
print("ready", flush=True)
time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 600)
