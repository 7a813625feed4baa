// A listener that sets TCP_FASTOPEN as servers do: in net.ListenConfig.Control. Prints the protocol of each socket that Go
// makes for it with the result, and that of the one that listens. With the argument `ignore`, it goes on without Fast Open.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
)

// From the kernel's headers; the package syscall lacks them.
const (
	protocolMPTCP = 262
	soProtocol    = 38
	tcpFastOpen   = 23
)

func protocol(fd uintptr) string {
	number, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soProtocol)
	switch {
	case err != nil:
		return err.Error()
	case number == protocolMPTCP:
		return "mptcp"
	case number == syscall.IPPROTO_TCP:
		return "tcp"
	}
	return fmt.Sprint(number)
}

func setFastOpen(_, _ string, connection syscall.RawConn) error {
	var result error
	err := connection.Control(func(fd uintptr) {
		result = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpFastOpen, 256)
		name := "ok"
		if result == syscall.ENOPROTOOPT {
			name = "ENOPROTOOPT"
		} else if result != nil {
			name = result.Error()
		}
		fmt.Println(protocol(fd), name)
	})
	if err != nil {
		return err
	}
	if len(os.Args) > 1 && os.Args[1] == "ignore" {
		return nil
	}
	return result
}

func main() {
	config := net.ListenConfig{Control: setFastOpen}
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	connection, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		panic(err)
	}
	connection.Control(func(fd uintptr) { fmt.Println("listening", protocol(fd)) })
	fmt.Scanln()
	listener.Close()
}
