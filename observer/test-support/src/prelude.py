# What the Python programs of the tests share.
import ctypes, errno, os, platform, resource, select, signal, socket, struct, sys, threading, time

FAMILIES = ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1'))
LIBC = ctypes.CDLL(None, use_errno=True)


def wait(condition):
    """Waits for what should happen at once; the test gives up before this does."""
    while not condition():
        time.sleep(0.005)


def listen(family, address, backlog=512, port=0, protocol=0):
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(backlog)
    return listener


def connect(family, target, protocol=0):
    client = socket.socket(family, socket.SOCK_STREAM, protocol)
    client.connect(target)
    return client


def pair(family, address):
    """A client and a server in one process, both ESTABLISHED."""
    listener = listen(family, address)
    client = connect(family, listener.getsockname())
    server, _ = listener.accept()
    listener.close()
    return client, server


def short(family, address, count):
    """So many connections of one process, one after the other; the client closes first. Returns the listener."""
    listener = listen(family, address)
    for _ in range(count):
        client = connect(family, listener.getsockname())
        server, _ = listener.accept()
        client.close()
        assert server.recv(1) == b''
        server.close()
    return listener


def tcp_info(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)


def state(sock):
    """The TCP state, as the kernel numbers it."""
    return tcp_info(sock)[0]


def half_close(sock):
    """shutdown(SHUT_WR), and waits for the peer's ACK: FIN_WAIT2."""
    sock.shutdown(socket.SHUT_WR)
    wait(lambda: state(sock) == 5)


def states_of(port):
    """The states of all sockets with this local port, closed ones included."""
    found = []
    for name in ('/proc/self/net/tcp', '/proc/self/net/tcp6'):
        for line in open(name).readlines()[1:]:
            words = line.split()
            if int(words[1].rsplit(':', 1)[1], 16) == port:
                found.append(int(words[3], 16))
    return found


def queued(listener):
    """Connections that wait for accept(): `tcpi_unacked` of a listener."""
    return struct.unpack_from('I', tcp_info(listener), 24)[0]


def reset(sock):
    """Closes with SO_LINGER 0, which sends an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    sock.close()


def deafen(sock):
    """Drops what comes for it, with SO_ATTACH_FILTER."""
    drop = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))
    program = struct.pack('HxxxxxxP', 1, ctypes.addressof(drop))
    sock.setsockopt(socket.SOL_SOCKET, 26, program)


def hear(sock):
    """Ends `deafen`."""
    sock.setsockopt(socket.SOL_SOCKET, 27, 0)


def closing(family, address, data=b''):
    """Both sides close at the same time; the second is in CLOSING, with data that was not read."""
    client, server = pair(family, address)
    deafen(client)
    server.shutdown(socket.SHUT_WR)
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    wait(lambda: state(server) == 11)
    return client, server


def deaf(family, address):
    """A listener whose accept queue is full, so that it drops every SYN, and the two
    connections that fill it. Nothing answers there, on any kernel and without any device."""
    listener = listen(family, address, 1)
    fillers = [connect(family, listener.getsockname()) for _ in range(2)]
    wait(lambda: queued(listener) == 2)
    return listener, fillers


def deaf_servers():
    """Such a listener for each family until the test says otherwise; prints their ports."""
    nobody = [deaf(family, address) for family, address in FAMILIES]
    print(*[listener.getsockname()[1] for listener, _ in nobody])
    input()


def closed_port(family, address):
    """A port that is taken, so that nobody listens there: keep the socket."""
    holder = socket.socket(family)
    holder.bind((address, 0))
    return holder


def outcome(call):
    """`ok`, or the name of the errno."""
    try:
        call()
        return 'ok'
    except OSError as error:
        return errno.errorcode[error.errno]


def refuse(call, code):
    """Lets seccomp answer a system call with an errno, before the kernel looks at its arguments."""
    numbers = {'setsockopt': (54, 208), 'socket': (41, 198)}[call]
    number = numbers[platform.machine() == 'aarch64']
    instructions = [
        (0x20, 0, 0, 0),  # A = the number of the system call
        (0x15, 0, 1, number),
        (0x06, 0, 0, 0x00050000 | code),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7fff0000),  # SECCOMP_RET_ALLOW
    ]
    code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *i) for i in instructions))
    program = struct.pack('HxxxxxxQ', len(instructions), ctypes.addressof(code))
    LIBC.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    assert LIBC.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0  # PR_SET_SECCOMP


class Tally(dict):
    """Counts by name; printed as one line of `name=count`."""

    def add(self, name, count=1):
        self[name] = self.get(name, 0) + count

    def __str__(self):
        return ' '.join(f'{name}={count}' for name, count in sorted(self.items()))
